// Who starts when and with what, on the scheduler alone: a device of known speed, a clock of our
// own.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "engine/scheduler.h"

namespace palu {
namespace {

using std::chrono::milliseconds;

class AdmissionTest : public ::testing::Test {
 protected:
  AdmissionTest() {
    options_.max_sequences = 8;
    options_.step_tokens = 512;
    options_.prefix_caching = false;
    limits_.max_context_tokens = 1 << 16;
    limits_.block_tokens = 4;
    limits_.num_blocks = 200;
    limits_.vocab_size = 1000;
  }

  void Start() { scheduler_ = std::make_unique<Scheduler>(options_, limits_); }
  void TearDown() override {
    if (scheduler_) scheduler_->EndAll(now_, {}, EndReason::kShutdown, &events_);
  }

  RequestState* Add(int prompt_tokens, int max_tokens, int priority = 0, int n = 1) {
    Request request;
    request.prompt.assign(prompt_tokens, next_token_++);
    request.sampling.max_tokens = max_tokens;
    request.sampling.ignore_eos = true;
    request.priority = priority;
    request.n = n;
    auto state = MakeRequestState(std::move(request), std::make_shared<OutputStream>(n), 0);
    state->timing.arrival = now_;
    RequestState* added = state.get();
    scheduler_->Add(std::move(state));
    return added;
  }

  // One step; how long it takes is seconds_per_token of its tokens.
  double Step() {
    scheduler_->Schedule(now_, &plan_);
    if (!scheduler_->Settle(now_, &plan_)) return 0;
    BuildStepBatch(plan_, limits_.block_tokens, &batch_);
    scheduler_->Advance(&plan_);
    StepResult result;
    result.tokens.resize(batch_.rows.size());
    const double seconds = seconds_per_token_ * plan_.num_tokens;
    scheduler_->ObserveStep(plan_, seconds);
    now_ += std::chrono::duration_cast<Scheduler::TimePoint::duration>(
        std::chrono::duration<double>(seconds));
    events_.Clear();
    scheduler_->Commit(now_, plan_, std::move(result), &events_);
    return seconds;
  }

  EngineOptions options_;
  EngineLimits limits_;
  double seconds_per_token_ = 1e-4;
  int32_t next_token_ = 1;
  Scheduler::TimePoint now_ = Scheduler::TimePoint() + std::chrono::hours(1);
  std::unique_ptr<Scheduler> scheduler_;
  StepPlan plan_;
  StepBatch batch_;
  StepEvents events_;
};

TEST_F(AdmissionTest, AStartLeavesOnePercentFree) {
  // 190 of 200 blocks are taken; of the other ten two are to stay.
  for (const auto& [blocks, starts] : {std::pair(8, true), std::pair(9, false)}) {
    Start();
    Add(190 * 4 - 2, 1);
    while (scheduler_->num_waiting() > 0) Step();
    const RequestState* second = Add(blocks * 4, 10);
    scheduler_->Schedule(now_, &plan_);
    EXPECT_EQ(second->started(), starts) << blocks;
    scheduler_->EndAll(now_, {}, EndReason::kShutdown, &events_);
  }
}

TEST_F(AdmissionTest, AloneItMayTakeTheWholePool) {
  Start();
  const RequestState* request = Add(200 * 4, 1);
  Step();
  EXPECT_TRUE(request->started());
}

TEST_F(AdmissionTest, ChoicesSharePromptBlocksAndCopyTheLastWhenTheyPart) {
  Start();
  // Two full blocks and a half one.
  const RequestState* request = Add(10, 20, 0, 3);
  Step();
  const std::vector<int32_t> shared = request->sequences[0]->tables[0].blocks;
  ASSERT_EQ(shared.size(), 3u);
  for (const auto& sequence : request->sequences) EXPECT_EQ(sequence->tables[0].blocks, shared);
  for (const int32_t block : shared) EXPECT_EQ(scheduler_->allocator().ref_count(block), 3);
  Step();
  // The first two to write copy; the block stays with the last.
  ASSERT_EQ(batch_.block_moves.size(), 2u);
  std::vector<int32_t> last;
  for (const auto& sequence : request->sequences) {
    EXPECT_EQ(sequence->tables[0].blocks[0], shared[0]);
    EXPECT_EQ(sequence->tables[0].blocks[1], shared[1]);
    last.push_back(sequence->tables[0].blocks[2]);
    EXPECT_EQ(scheduler_->allocator().ref_count(last.back()), 1);
  }
  for (const BlockMove& move : batch_.block_moves) {
    EXPECT_EQ(move.kind, BlockMove::Kind::kCopy);
    EXPECT_EQ(move.from, shared[2]);
  }
  EXPECT_EQ((std::vector<int32_t>{batch_.block_moves[0].to, batch_.block_moves[1].to, shared[2]}),
            last);
}

// The longest step in which an answer waited for its next token, once the chunk has settled.
TEST_F(AdmissionTest, PromptsLeaveAnswersTheirTimeBetweenTokens) {
  double longest[2] = {};
  for (const bool bounded : {false, true}) {
    options_.target_inter_token_ms = bounded ? 20 : 0;
    limits_.num_blocks = 20000;
    Start();
    for (int i = 0; i < 4; ++i) Add(8, 4000);
    Step();
    for (int i = 0; i < 200; ++i) {
      if (scheduler_->num_running() < 6) Add(3000, 2);
      const double seconds = Step();
      ASSERT_GE(plan_.num_decodes, 4);
      if (i >= 20) longest[bounded] = std::max(longest[bounded], seconds);
    }
    scheduler_->EndAll(now_, {}, EndReason::kShutdown, &events_);
  }
  EXPECT_NEAR(longest[0], 512 * seconds_per_token_, 1e-9);
  EXPECT_LE(longest[1], 0.020 * 1.05);
  EXPECT_GE(longest[1], 0.020 * 0.7) << "prompts are not held back more than asked";
}

// How long a request of low priority waits while better ones never cease to come, each of which
// takes the whole server for 50 ms.
TEST_F(AdmissionTest, AgeingBoundsHowLongABetterPriorityGoesBefore) {
  options_.max_sequences = 1;
  seconds_per_token_ = 1e-3;
  const auto wait_ms = [this](int64_t ageing_ms) -> std::optional<double> {
    options_.ageing = milliseconds(ageing_ms);
    Start();
    Add(40, 10);
    const RequestState* low = Add(40, 1000, 3);
    const auto arrival = now_;
    for (int i = 0; i < 2000 && !low->started(); ++i) {
      if (scheduler_->num_waiting() < 3) Add(40, 10);
      Step();
    }
    std::optional<double> waited;
    if (low->started()) {
      waited = std::chrono::duration<double, std::milli>(low->timing.scheduled - arrival).count();
    }
    scheduler_->EndAll(now_, {}, EndReason::kShutdown, &events_);
    return waited;
  };
  EXPECT_EQ(wait_ms(0), std::nullopt) << "priorities are strict";
  for (const int64_t ageing_ms : {200, 1000}) {
    const auto waited = wait_ms(ageing_ms);
    ASSERT_TRUE(waited.has_value());
    // Whoever came within three times the ageing goes before, and some were already there.
    EXPECT_GE(*waited, 3.0 * static_cast<double>(ageing_ms));
    EXPECT_LE(*waited, 3.0 * static_cast<double>(ageing_ms) + 4 * 50);
  }
}

}  // namespace
}  // namespace palu
