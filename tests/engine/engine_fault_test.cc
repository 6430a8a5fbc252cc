// What goes wrong around the engine: memory, device, clock.
#include <gtest/gtest.h>

#include <new>

#include "engine/scheduler.h"
#include "tests/engine/engine_fixture.h"

namespace palu {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using testing::Answer;
using testing::EngineTest;
using testing::FakeRunner;
using testing::ReadAll;

// Runs out of memory at one step, after or before it has moved and written blocks.
class OutOfMemoryRunner : public FakeRunner {
 public:
  OutOfMemoryRunner(const EngineLimits& limits, const EngineOptions& options, int step, bool after)
      : FakeRunner(limits, options), step_(step), after_(after) {}

  StepResult Run(const StepBatch& batch) override {
    const bool now = steps() == step_;
    if (now && !after_) throw std::bad_alloc();
    StepResult result = FakeRunner::Run(batch);
    if (now) throw std::bad_alloc();
    return result;
  }

 private:
  const int step_;
  const bool after_;
};

class EngineFaultTest : public EngineTest {};

TEST_F(EngineFaultTest, AllocationFailureFailsEveryRequestAndLosesNoBlock) {
  limits.num_blocks = 12;
  limits.num_host_blocks = 6;
  for (const bool overlap : {false, true}) {
    options.overlap = overlap;
    for (int step = 0; step < 24; ++step) {
      engine.reset();
      OutOfMemoryRunner broken(limits, options, step, step % 2 == 0);
      StartWith(&broken);
      std::vector<RequestHandle> handles;
      for (int i = 0; i < 6; ++i) {
        Request request = Simple({1, 2, 3, 4, 5, i}, 30);
        request.n = 1 + i % 2;
        auto handle = engine->Submit(std::move(request));
        // The device may have failed already.
        if (handle) handles.push_back(std::move(*handle));
      }
      for (size_t i = 0; i < handles.size(); ++i) {
        const Answer answer = ReadAll(handles[i], 1 + static_cast<int>(i) % 2);
        EXPECT_EQ(answer.status.code, StatusCode::kInternal);
        EXPECT_NE(answer.status.message.find("bad_alloc"), std::string::npos);
      }
      EXPECT_FALSE(engine->healthy());
      EXPECT_FALSE(engine->Submit(Simple({1}, 1)));
      ExpectIdle();
      engine.reset();  // the allocators' destructors count the blocks
    }
  }
}

// A request may be asked for at any step of any other.
TEST_F(EngineFaultTest, OverlapChangesNoAnswer) {
  limits.num_blocks = 14;
  limits.num_host_blocks = 4;
  std::vector<std::vector<int32_t>> answers[2];
  for (const bool overlap : {false, true}) {
    options.overlap = overlap;
    Start();
    std::vector<RequestHandle> handles;
    for (int i = 0; i < 12; ++i) handles.push_back(MustSubmit(Simple({1, 2, 3, i % 5}, 20 + i)));
    for (auto& handle : handles) answers[overlap].push_back(ReadAll(handle).choices[0].tokens);
    EXPECT_GT(engine->metrics().preemptions, 0u);
    ExpectIdle();
  }
  EXPECT_EQ(answers[0], answers[1]);
}

class ClockTest : public ::testing::Test {
 protected:
  ClockTest() {
    options_.max_sequences = 2;
    options_.step_tokens = 8;
    limits_.max_context_tokens = 64;
    limits_.block_tokens = 4;
    limits_.num_blocks = 16;
    limits_.vocab_size = 50;
    scheduler_ = std::make_unique<Scheduler>(options_, limits_);
    runner_ = std::make_unique<FakeRunner>(limits_, options_);
  }

  void Add(std::optional<milliseconds> deadline) {
    Request request;
    request.prompt = {1, 2, 3};
    request.sampling.max_tokens = 20;
    request.sampling.ignore_eos = true;
    if (deadline) request.deadline = start_ + *deadline;
    scheduler_->Add(MakeRequestState(std::move(request), std::make_shared<OutputStream>(1), 0));
  }

  // Events of one step at that time, and the reasons of what ended.
  std::vector<EndReason> Step(Scheduler::TimePoint now) {
    events_.Clear();
    scheduler_->Reap(now, &events_);
    scheduler_->Schedule(now, &plan_);
    if (scheduler_->Settle(now, &plan_)) {
      BuildStepBatch(plan_, limits_.block_tokens, &batch_);
      scheduler_->Advance(&plan_);
      scheduler_->Commit(now, plan_, runner_->Run(batch_), &events_);
    }
    std::vector<EndReason> reasons;
    for (const auto& ended : events_.ended) reasons.push_back(ended.reason);
    return reasons;
  }

  EngineOptions options_;
  EngineLimits limits_;
  const Scheduler::TimePoint start_ = Scheduler::TimePoint() + hours(100);
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<FakeRunner> runner_;
  StepPlan plan_;
  StepBatch batch_;
  StepEvents events_;
};

TEST_F(ClockTest, JumpAheadEndsWhatHasADeadlineOnly) {
  Add(milliseconds(5000));
  Add(std::nullopt);
  EXPECT_TRUE(Step(start_).empty());
  EXPECT_EQ(scheduler_->next_deadline(), start_ + milliseconds(5000));
  EXPECT_EQ(Step(start_ + hours(24 * 365)), std::vector<EndReason>{EndReason::kDeadline});
  EXPECT_EQ(scheduler_->next_deadline(), Scheduler::TimePoint::max());
  int ended = 0;
  for (int i = 0; i < 30; ++i) {
    for (const EndReason reason : Step(start_ + hours(24 * 365))) {
      EXPECT_EQ(reason, EndReason::kLength);
      ++ended;
    }
  }
  EXPECT_EQ(ended, 1);
}

TEST_F(ClockTest, JumpBackHarmsNobody) {
  Add(milliseconds(5000));
  Add(std::nullopt);
  std::vector<EndReason> all;
  for (int i = 0; i < 30; ++i) {
    // Backwards by an hour at every step, to before the beginning of time.
    for (const EndReason reason : Step(start_ - hours(i * 10))) all.push_back(reason);
  }
  EXPECT_EQ(all, (std::vector<EndReason>{EndReason::kLength, EndReason::kLength}));
  EXPECT_EQ(scheduler_->blocks_used(), 0);
}

}  // namespace
}  // namespace palu
