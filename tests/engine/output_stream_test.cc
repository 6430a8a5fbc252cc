#include "engine/output_stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace palu {
namespace {

using std::chrono::milliseconds;

OutputDelta Delta(int choice, std::vector<int32_t> ids, std::optional<FinishReason> finish = {}) {
  OutputDelta delta;
  delta.choice = choice;
  for (const int32_t id : ids) {
    delta.tokens.emplace_back();
    delta.tokens.back().token = id;
  }
  delta.finish = finish;
  return delta;
}

std::vector<int32_t> Ids(const OutputDelta& delta) {
  std::vector<int32_t> ids;
  for (const OutputToken& token : delta.tokens) ids.push_back(token.token);
  return ids;
}

TEST(OutputStream, UnreadDeltasCoalescePerChoice) {
  OutputStream stream(2);
  stream.PublishPrompt(5, 4, {OutputToken{}});
  stream.Publish(Delta(1, {10}));
  stream.Publish(Delta(0, {20}));
  stream.Publish(Delta(1, {11}, FinishReason::kLength));
  EXPECT_EQ(stream.unread_tokens(), 3);
  const OutputBatch batch = stream.Drain();
  EXPECT_EQ(stream.unread_tokens(), 0);
  EXPECT_EQ(batch.prompt_tokens, 5);
  EXPECT_EQ(batch.cached_tokens, 4);
  EXPECT_EQ(batch.prompt_logprobs.size(), 1u);
  ASSERT_EQ(batch.deltas.size(), 2u);
  EXPECT_EQ(batch.deltas[0].choice, 1);
  EXPECT_EQ(Ids(batch.deltas[0]), (std::vector<int32_t>{10, 11}));
  EXPECT_EQ(batch.deltas[0].finish, FinishReason::kLength);
  EXPECT_EQ(Ids(batch.deltas[1]), std::vector<int32_t>{20});
  EXPECT_FALSE(batch.deltas[1].finish);
  EXPECT_FALSE(batch.finished);
}

TEST(OutputStream, EndIsReadOnce) {
  OutputStream stream(1);
  RequestTiming timing;
  timing.finished = RequestTiming::Clock::now();
  stream.PublishPrompt(3, 0, {});
  stream.Drain();
  stream.Finish({StatusCode::kCancelled, "gone", {}}, timing);
  EXPECT_TRUE(stream.Wait(milliseconds(0)));
  const OutputBatch batch = stream.Drain();
  EXPECT_TRUE(batch.finished);
  EXPECT_EQ(batch.status.code, StatusCode::kCancelled);
  EXPECT_EQ(batch.timing.finished, timing.finished);
  EXPECT_EQ(batch.prompt_tokens, 3);
  EXPECT_FALSE(stream.Wait(milliseconds(0)));
  EXPECT_FALSE(stream.Drain().finished);
}

TEST(OutputStream, NotifierFiresWhenTheMailboxFills) {
  OutputStream stream(1);
  int calls = 0;
  stream.SetNotifier([&] { ++calls; });
  EXPECT_EQ(calls, 0);
  stream.Publish(Delta(0, {1}));
  stream.Publish(Delta(0, {2}));
  EXPECT_EQ(calls, 1);
  stream.Drain();
  stream.Publish(Delta(0, {3}));
  EXPECT_EQ(calls, 2);
}

TEST(OutputStream, LateNotifierFiresAtOnce) {
  OutputStream stream(1);
  stream.Publish(Delta(0, {1}));
  int calls = 0;
  stream.SetNotifier([&] {
    ++calls;
    stream.Drain();
  });
  EXPECT_EQ(calls, 1);
  stream.Publish(Delta(0, {2}));
  EXPECT_EQ(calls, 2) << "a notifier may drain";
}

TEST(OutputStream, CancelAndStopAreSeen) {
  OutputStream stream(2);
  EXPECT_FALSE(stream.cancelled());
  stream.Cancel();
  EXPECT_TRUE(stream.cancelled());
  stream.StopChoice(1);
  EXPECT_FALSE(stream.choice_stopped(0));
  EXPECT_TRUE(stream.choice_stopped(1));
}

// A reader that only drains when it is notified must see everything, in order.
TEST(OutputStream, NoWakeUpIsLostBetweenThreads) {
  constexpr int kTokens = 20000;
  OutputStream stream(1);
  std::atomic<int> posted{0};
  std::thread writer([&] {
    for (int i = 0; i < kTokens; ++i) stream.Publish(Delta(0, {i}));
    stream.Finish({}, {});
  });
  stream.SetNotifier([&] {
    ++posted;
    posted.notify_one();
  });
  int next = 0;
  bool finished = false;
  for (int drained = 0; !finished; ++drained) {
    while (posted == drained) posted.wait(drained);
    const OutputBatch batch = stream.Drain();
    for (const OutputDelta& delta : batch.deltas) {
      for (const OutputToken& token : delta.tokens) ASSERT_EQ(token.token, next++);
    }
    finished = batch.finished;
  }
  writer.join();
  EXPECT_EQ(next, kTokens);
}

TEST(OutputStream, BlockingReaderSeesEverything) {
  constexpr int kTokens = 5000;
  OutputStream stream(1);
  std::thread writer([&] {
    for (int i = 0; i < kTokens; ++i) stream.Publish(Delta(0, {i}));
    stream.Finish({}, {});
  });
  int next = 0;
  bool finished = false;
  while (!finished && stream.Wait(milliseconds(20000))) {
    const OutputBatch batch = stream.Drain();
    for (const OutputDelta& delta : batch.deltas) next += static_cast<int>(delta.tokens.size());
    finished = batch.finished;
  }
  writer.join();
  EXPECT_TRUE(finished);
  EXPECT_EQ(next, kTokens);
}

}  // namespace
}  // namespace palu
