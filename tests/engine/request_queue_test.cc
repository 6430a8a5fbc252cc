#include "engine/request_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <string>
#include <thread>

namespace palu {
namespace {

using PushResult = RequestQueue::PushResult;

std::unique_ptr<RequestState> MakeState(std::string id) {
  Request request;
  request.id = std::move(id);
  request.prompt = {1};
  return MakeRequestState(std::move(request), std::make_shared<OutputStream>(1), 0);
}

TEST(RequestQueue, PlacesAreHeldUntilReleased) {
  RequestQueue queue(2);
  std::vector<std::unique_ptr<RequestState>> taken;
  for (int i = 0; i < 2; ++i) {
    auto state = MakeState("a");
    ASSERT_EQ(queue.TryPush(&state), PushResult::kOk);
    EXPECT_EQ(state, nullptr);
  }
  auto state = MakeState("b");
  EXPECT_EQ(queue.TryPush(&state), PushResult::kFull);
  EXPECT_NE(state, nullptr);
  EXPECT_EQ(queue.size(), 2);
  EXPECT_TRUE(queue.TakeAll(&taken));
  EXPECT_EQ(taken.size(), 2u);
  EXPECT_EQ(queue.size(), 0);
  EXPECT_EQ(queue.TryPush(&state), PushResult::kFull) << "they still wait";
  queue.ReleasePlaces(1, 1);
  EXPECT_EQ(queue.TryPush(&state), PushResult::kOk);
  EXPECT_EQ(queue.places_held(), 2);
}

TEST(RequestQueue, TokensAreBoundedToo) {
  RequestQueue queue(10, 5);
  const auto push = [&queue](int tokens) {
    auto state = MakeState("a");
    state->request.prompt.assign(tokens, 1);
    return queue.TryPush(&state);
  };
  EXPECT_EQ(push(8), PushResult::kOk) << "an empty queue takes everything";
  EXPECT_EQ(push(1), PushResult::kFullOfTokens);
  queue.ReleasePlaces(1, 8);
  EXPECT_EQ(push(3), PushResult::kOk);
  EXPECT_EQ(push(3), PushResult::kFullOfTokens);
  EXPECT_EQ(push(2), PushResult::kOk);
  EXPECT_EQ(queue.tokens_held(), 5);
}

TEST(RequestQueue, ClosedTakesNothingButGivesWhatIsInside) {
  RequestQueue queue(2);
  auto state = MakeState("a");
  ASSERT_EQ(queue.TryPush(&state), PushResult::kOk);
  queue.Close();
  auto late = MakeState("b");
  EXPECT_EQ(queue.TryPush(&late), PushResult::kClosed);
  std::vector<std::unique_ptr<RequestState>> taken;
  EXPECT_TRUE(queue.TakeAll(&taken));
  EXPECT_EQ(taken.size(), 1u);
  queue.Stop();
  queue.WaitForWork();
  EXPECT_FALSE(queue.TakeAll(&taken));
}

TEST(RequestQueue, ManyProducersLoseNothingAndKeepTheirOrder) {
  constexpr int kProducers = 4, kEach = 1500;
  RequestQueue queue(64);
  std::atomic<int> most_held{0};
  std::vector<std::thread> producers;
  for (int p = 0; p < kProducers; ++p) {
    producers.emplace_back([&, p] {
      for (int i = 0; i < kEach; ++i) {
        auto state = MakeState(std::to_string(p));
        state->request.priority = i;
        while (queue.TryPush(&state) != PushResult::kOk) std::this_thread::yield();
      }
    });
  }
  std::vector<int> next(kProducers, 0);
  std::vector<std::unique_ptr<RequestState>> taken;
  for (int total = 0; total < kProducers * kEach;) {
    queue.WaitForWork();
    most_held = std::max<int>(most_held, queue.places_held());
    taken.clear();
    ASSERT_TRUE(queue.TakeAll(&taken));
    for (const auto& state : taken) {
      const int p = std::stoi(state->request.id);
      ASSERT_EQ(state->request.priority, next[p]++);
    }
    total += static_cast<int>(taken.size());
    queue.ReleasePlaces(static_cast<int>(taken.size()), static_cast<int64_t>(taken.size()));
  }
  for (std::thread& thread : producers) thread.join();
  EXPECT_LE(most_held, 64);
  EXPECT_EQ(queue.places_held(), 0);
}

}  // namespace
}  // namespace palu
