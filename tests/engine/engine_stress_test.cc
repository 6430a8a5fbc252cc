// Many threads against one engine; meant to be run under ThreadSanitizer too.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "tests/engine/engine_fixture.h"

namespace palu {
namespace {

using std::chrono::microseconds;
using testing::Answer;
using testing::EngineTest;
using testing::ReadAll;
using testing::RunAlone;

class EngineStressTest : public EngineTest {
 protected:
  EngineStressTest() {
    options.max_sequences = 8;
    options.step_tokens = 24;
    options.max_queue_requests = 12;
    limits.num_blocks = 24;
    limits.max_context_tokens = 80;
    limits.num_host_blocks = 12;
    options.policy = "fair";
    options.target_inter_token_ms = 1;
  }

  Request Random(std::mt19937& random) const {
    Request request = Simple({}, 1 + static_cast<int>(random() % 40));
    request.prompt.resize(1 + random() % 40);
    for (size_t i = 0; i < request.prompt.size(); ++i) {
      request.prompt[i] = static_cast<int32_t>(i < 12 ? i : random() % limits.vocab_size);
    }
    request.n = random() % 4 == 0 ? 1 + static_cast<int>(random() % 5) : 1;
    request.sampling.ignore_eos = random() % 2 == 0;
    request.priority = static_cast<int>(random() % 3);
    request.tenant = std::to_string(random() % 3);
    if (random() % 6 == 0) {
      request.deadline = RequestTiming::Clock::now() + microseconds(random() % 3000);
    }
    return request;
  }

  // Submits one request and reads, stops, cancels or drops it.
  void OneClient(std::mt19937& random) {
    const Request request = Random(random);
    auto submitted = engine->Submit(request);
    if (!submitted) {
      EXPECT_EQ(submitted.error().code, StatusCode::kResourceExhausted)
          << submitted.error().message;
      ++refused;
      std::this_thread::sleep_for(microseconds(200));
      return;
    }
    ++taken;
    RequestHandle handle = std::move(*submitted);
    const int fate = static_cast<int>(random() % 8);
    if (fate == 0) {
      std::this_thread::sleep_for(microseconds(random() % 500));
      return;
    }
    if (fate == 1) handle.stream().Cancel();
    if (fate == 2) handle.stream().StopChoice(0);
    const Answer answer = ReadAll(handle, request.n);
    const auto alone = RunAlone(limits, request, 0).tokens;
    for (const auto& choice : answer.choices) {
      const bool whole = choice.finish == FinishReason::kLength || choice.stopped_by_token;
      EXPECT_TRUE(std::equal(choice.tokens.begin(), choice.tokens.end(), alone.begin(),
                             whole ? alone.end() : alone.begin() + choice.tokens.size()));
    }
  }

  void RunClients(int threads, int each) {
    std::vector<std::thread> clients;
    for (int t = 0; t < threads; ++t) {
      clients.emplace_back([this, t, each] {
        std::mt19937 random(t);
        for (int i = 0; i < each; ++i) OneClient(random);
      });
    }
    for (std::thread& client : clients) client.join();
  }

  std::atomic<int> taken{0}, refused{0};
};

TEST_F(EngineStressTest, ManyClientsWithRandomFates) {
  Start();
  RunClients(8, 150);
  ExpectIdle();
  const MetricsSnapshot s = engine->metrics();
  EXPECT_EQ(s.finished_stop + s.finished_length + s.finished_abort + s.finished_error,
            static_cast<uint64_t>(taken));
  EXPECT_EQ(s.finished_error, 0u);
  EXPECT_EQ(s.finished_abort, s.cancelled_client + s.cancelled_deadline);
  EXPECT_EQ(s.rejected_queue_full, static_cast<uint64_t>(refused));
  EXPECT_GT(s.preemptions, 0u);
}

TEST_F(EngineStressTest, ShutdownAtRandomPoints) {
  std::mt19937 random(3);
  options.max_queue_requests = 64;
  for (int round = 0; round < 60; ++round) {
    Start();
    std::vector<RequestHandle> handles;
    std::vector<int> choices;
    for (int i = 0; i < 10; ++i) {
      Request request = Random(random);
      request.deadline.reset();
      choices.push_back(request.n);
      handles.push_back(MustSubmit(std::move(request)));
    }
    std::this_thread::sleep_for(microseconds(random() % 1500));
    engine.reset();
    for (size_t i = 0; i < handles.size(); ++i) {
      const Answer answer = ReadAll(handles[i], choices[i]);
      EXPECT_TRUE(answer.status.ok() || answer.status.code == StatusCode::kUnavailable);
    }
    EXPECT_TRUE(runner->violations().empty());
  }
}

TEST_F(EngineStressTest, DeviceFaultAtRandomSteps) {
  std::mt19937 random(4);
  options.max_queue_requests = 64;
  for (int round = 0; round < 40; ++round) {
    runner = std::make_unique<testing::FakeRunner>(limits, options);
    runner->throw_at_step = static_cast<int>(random() % 60);
    StartWith(runner.get());
    int failed = 0, unhealthy_refusals = 0;
    for (int i = 0; i < 12; ++i) {
      Request request = Random(random);
      request.deadline.reset();
      const int n = request.n;
      auto handle = engine->Submit(std::move(request));
      if (!handle) {
        EXPECT_EQ(handle.error().code, StatusCode::kUnavailable);
        ++unhealthy_refusals;
        continue;
      }
      const Answer answer = ReadAll(*handle, n);
      if (!answer.status.ok()) {
        EXPECT_EQ(answer.status.code, StatusCode::kInternal);
        ++failed;
      }
    }
    EXPECT_EQ(engine->healthy(), failed == 0);
    EXPECT_LE(failed, 1);
    EXPECT_TRUE(failed == 1 || unhealthy_refusals == 0);
    ExpectIdle();
    engine.reset();
  }
}

TEST_F(EngineStressTest, MetricsAreReadWhileRunning) {
  Start();
  std::atomic<bool> done{false};
  std::thread reader([&] {
    while (!done) {
      const MetricsSnapshot s = engine->metrics();
      EXPECT_LE(s.blocks_used, s.blocks_total);
      EXPECT_LE(s.requests_running, options.max_sequences);
      std::this_thread::sleep_for(microseconds(100));
    }
  });
  RunClients(2, 60);
  done = true;
  reader.join();
  ExpectIdle();
}

}  // namespace
}  // namespace palu
