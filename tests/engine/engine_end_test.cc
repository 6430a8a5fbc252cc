// How requests end otherwise than by themselves: cancelled, expired, unread, refused, shut down.
#include <gtest/gtest.h>

#include "tests/engine/engine_fixture.h"

namespace palu {
namespace {

using std::chrono::milliseconds;
using testing::Answer;
using testing::EngineTest;
using testing::ReadAll;
using Clock = RequestTiming::Clock;

class EngineEndTest : public EngineTest {
 protected:
  EngineEndTest() {
    limits.num_blocks = 1024;
    limits.max_context_tokens = limits.num_blocks * limits.block_tokens;
  }

  void StartSlow() {
    runner = std::make_unique<testing::FakeRunner>(limits, options);
    runner->step_time = milliseconds(2);
    StartWith(runner.get());
  }

  // Runs for eight seconds if nothing ends it, which all that a test does meanwhile fits into.
  RequestHandle StartLong() {
    RequestHandle handle = MustSubmit(Simple({1, 2, 3}, 4000));
    EXPECT_TRUE(handle.stream().Wait(std::chrono::seconds(20)));
    return handle;
  }
};

TEST_F(EngineEndTest, CancelEndsWithinAStep) {
  StartSlow();
  runner->HoldFrom(3);
  RequestHandle handle = StartLong();
  while (runner->steps() < 4) std::this_thread::yield();
  const int steps = runner->steps();
  handle.stream().Cancel();
  runner->Release();
  const Answer answer = ReadAll(handle);
  EXPECT_LE(runner->steps(), steps + 2);
  EXPECT_EQ(answer.status.code, StatusCode::kCancelled);
  EXPECT_EQ(answer.choices[0].finish, FinishReason::kCancelled);
  ExpectIdle();
  EXPECT_EQ(engine->metrics().cancelled_client, 1u);
  EXPECT_EQ(engine->metrics().finished_abort, 1u);
}

TEST_F(EngineEndTest, CancelledBeforeTheEngineHasTakenItInEndsToo) {
  options.max_sequences = 1;
  StartSlow();
  RequestHandle running = StartLong();
  for (int i = 0; i < 10; ++i) {
    RequestHandle handle = MustSubmit(Simple({4, 5, i}, 3));
    handle.stream().Cancel();
    EXPECT_EQ(ReadAll(handle).status.code, StatusCode::kCancelled);
  }
  running.stream().Cancel();
  EXPECT_EQ(ReadAll(running).status.code, StatusCode::kCancelled) << "they waited for its end";
  ExpectIdle();
  EXPECT_EQ(engine->metrics().cancelled_client, 11u);
}

TEST_F(EngineEndTest, DestroyedHandleFreesItsBlocks) {
  StartSlow();
  { RequestHandle handle = StartLong(); }
  ExpectIdle();
  EXPECT_EQ(engine->metrics().cancelled_client, 1u);
}

TEST_F(EngineEndTest, StopChoiceEndsOneChoice) {
  StartSlow();
  runner->HoldFrom(3);
  Request request = Simple({1, 2, 3}, 60);
  request.n = 2;
  RequestHandle handle = MustSubmit(request);
  EXPECT_TRUE(handle.stream().Wait(std::chrono::seconds(20)));
  handle.stream().StopChoice(0);
  runner->Release();
  const Answer answer = ReadAll(handle, 2);
  EXPECT_TRUE(answer.status.ok());
  EXPECT_EQ(answer.choices[0].finish, FinishReason::kStop);
  EXPECT_FALSE(answer.choices[0].stopped_by_token);
  EXPECT_LT(answer.choices[0].tokens.size(), 60u);
  EXPECT_EQ(answer.choices[1].finish, FinishReason::kLength);
  EXPECT_EQ(answer.choices[1].tokens.size(), 60u);
  ExpectIdle();
}

TEST_F(EngineEndTest, DeadlineEndsRunningAndWaiting) {
  options.max_sequences = 1;
  StartSlow();
  Request request = Simple({1, 2, 3}, 4000);
  request.deadline = Clock::now() + milliseconds(40);
  RequestHandle running = MustSubmit(request);
  RequestHandle waiting = MustSubmit(request);
  for (RequestHandle* handle : {&running, &waiting}) {
    const Answer answer = ReadAll(*handle);
    EXPECT_EQ(answer.status.code, StatusCode::kDeadlineExceeded);
    EXPECT_EQ(answer.choices[0].finish, FinishReason::kCancelled);
  }
  ExpectIdle();
  EXPECT_EQ(engine->metrics().cancelled_deadline, 2u);
}

TEST_F(EngineEndTest, UnreadStreamIsCancelled) {
  options.max_unread_tokens = 10;
  Start();
  RequestHandle handle = MustSubmit(Simple({1, 2, 3}, 120));
  for (int i = 0; i < 20000 && !engine->idle(); ++i) std::this_thread::sleep_for(milliseconds(1));
  const Answer answer = ReadAll(handle);
  EXPECT_EQ(answer.status.code, StatusCode::kCancelled);
  EXPECT_EQ(answer.choices[0].tokens.size(), 12u);
  ExpectIdle();
  EXPECT_EQ(engine->metrics().cancelled_slow_reader, 1u);
}

TEST_F(EngineEndTest, FullQueueRefusesAndRecovers) {
  options.max_sequences = 1;
  options.max_queue_requests = 2;
  StartSlow();
  RequestHandle running = StartLong();
  RequestHandle a = MustSubmit(Simple({1}, 1));
  RequestHandle b = MustSubmit(Simple({1}, 1));
  const auto refused = engine->Submit(Simple({1}, 1));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, StatusCode::kResourceExhausted);
  EXPECT_EQ(engine->metrics().rejected_queue_full, 1u);
  EXPECT_EQ(engine->metrics().requests_waiting, 2);
  a.stream().Cancel();
  ReadAll(a);
  RequestHandle c = MustSubmit(Simple({1}, 1));
  running.stream().Cancel();
  EXPECT_TRUE(ReadAll(b).status.ok());
  EXPECT_TRUE(ReadAll(c).status.ok());
  ReadAll(running);
  ExpectIdle();
}

TEST_F(EngineEndTest, DrainLetsRunningRequestsFinish) {
  StartSlow();
  RequestHandle handle = MustSubmit(Simple({1, 2, 3}, 20));
  engine->Drain();
  const auto refused = engine->Submit(Simple({1}, 1));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, StatusCode::kUnavailable);
  EXPECT_EQ(engine->metrics().rejected_draining, 1u);
  EXPECT_TRUE(ReadAll(handle).status.ok());
  ExpectIdle();
  EXPECT_TRUE(engine->healthy());
}

TEST_F(EngineEndTest, ShutdownEndsWhatRunsAndWaits) {
  options.max_sequences = 1;
  StartSlow();
  RequestHandle running = StartLong();
  RequestHandle waiting = MustSubmit(Simple({1}, 1));
  engine.reset();
  for (RequestHandle* handle : {&running, &waiting}) {
    const Answer answer = ReadAll(*handle);
    EXPECT_EQ(answer.status.code, StatusCode::kUnavailable);
    EXPECT_EQ(answer.choices[0].finish, FinishReason::kCancelled);
  }
}

TEST_F(EngineEndTest, StopEndsEverythingAndTheEngineStays) {
  options.max_sequences = 1;
  StartSlow();
  RequestHandle running = StartLong();
  RequestHandle waiting = MustSubmit(Simple({1}, 1));
  engine->Stop();
  engine->Stop();
  for (RequestHandle* handle : {&running, &waiting}) {
    EXPECT_EQ(ReadAll(*handle).status.code, StatusCode::kUnavailable);
  }
  const auto refused = engine->Submit(Simple({1}, 1));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, StatusCode::kUnavailable);
  ExpectIdle();
  EXPECT_TRUE(engine->healthy());
  EXPECT_EQ(engine->metrics().cancelled_shutdown, 2u);
}

TEST_F(EngineEndTest, DeviceFaultFailsEverythingAndIsSeen) {
  options.max_sequences = 2;
  runner = std::make_unique<testing::FakeRunner>(limits, options);
  runner->step_time = milliseconds(2);
  runner->throw_at_step = 5;
  runner->HoldFrom(0);
  StartWith(runner.get());
  Request forked = Simple({1, 2, 3, 4, 5}, 100);
  forked.n = 3;
  RequestHandle running = MustSubmit(forked);
  RequestHandle waiting = MustSubmit(Simple({1}, 1));
  EXPECT_TRUE(engine->healthy());
  runner->Release();
  const Answer failed = ReadAll(running, 3);
  EXPECT_EQ(failed.status.code, StatusCode::kInternal);
  EXPECT_NE(failed.status.message.find("fake device fault"), std::string::npos);
  for (const auto& choice : failed.choices) EXPECT_EQ(choice.finish, FinishReason::kError);
  EXPECT_EQ(ReadAll(waiting).status.code, StatusCode::kInternal);
  EXPECT_FALSE(engine->healthy());
  const auto refused = engine->Submit(Simple({1}, 1));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, StatusCode::kUnavailable);
  ExpectIdle();
  EXPECT_EQ(engine->metrics().finished_error, 2u);
}

TEST_F(EngineEndTest, IdleEngineRunsNoSteps) {
  Start();
  EXPECT_EQ(Answered(Simple({1, 2}, 3)).choices[0].tokens.size(), 3u);
  const int steps = runner->steps();
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(runner->steps(), steps);
}

}  // namespace
}  // namespace palu
