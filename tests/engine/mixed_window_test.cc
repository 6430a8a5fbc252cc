// Layer groups that slide beside one that sees everything: what a sequence holds of the pool.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>

#include "engine/request_check.h"
#include "engine/scheduler.h"
#include "tests/engine/fake_runner.h"

namespace palu {
namespace {

using testing::FakeRunner;
using testing::ReferenceOutput;
using testing::RunAlone;

constexpr int kWindow = 32;
constexpr int kBlock = 4;
constexpr int kStep = 24;
constexpr int kGroups = 6;

class MixedWindowTest : public ::testing::Test {
 protected:
  MixedWindowTest() {
    options_.max_sequences = 8;
    options_.step_tokens = kStep;
    limits_.max_context_tokens = 4096;
    limits_.block_tokens = kBlock;
    limits_.vocab_size = 50;
    limits_.group_windows = {0, kWindow, kWindow, kWindow, kWindow, kWindow};
    limits_.max_chunk_tokens = kStep;
    limits_.num_blocks = 4096;
  }

  void Start() {
    scheduler_ = std::make_unique<Scheduler>(options_, limits_);
    runner_ = std::make_unique<FakeRunner>(limits_, options_);
  }

  static Request Make(int prompt, int max_tokens) {
    Request request;
    for (int i = 0; i < prompt; ++i) request.prompt.push_back(i * 7 % 50);
    request.sampling.max_tokens = max_tokens;
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    return request;
  }

  Sequence* Add(Request request) {
    EXPECT_EQ(CheckRequest(limits_, &request).fault, RequestFault::kNone);
    auto state = MakeRequestState(std::move(request), std::make_shared<OutputStream>(request.n), 0);
    Sequence* sequence = state->sequences[0].get();
    scheduler_->Add(std::move(state));
    return sequence;
  }

  // The requests that ended.
  std::vector<std::unique_ptr<RequestState>> Step() {
    StepPlan plan;
    StepEvents events;
    scheduler_->Schedule({}, &plan);
    preemptions_ += plan.preemptions;
    hit_tokens_ += plan.prefix_hit_tokens;
    if (scheduler_->Settle({}, &plan)) {
      StepBatch batch;
      BuildStepBatch(plan, kBlock, &batch);
      scheduler_->Advance(&plan);
      scheduler_->Commit({}, plan, runner_->Run(batch), &events);
      if (!scheduler_->has_moves()) {
        runner_->PoisonFreeBlocks(scheduler_->allocator(), scheduler_->host_allocator());
      }
    }
    EXPECT_EQ(runner_->violations(), std::vector<std::string>());
    std::vector<std::unique_ptr<RequestState>> ended;
    for (auto& end : events.ended) ended.push_back(std::move(end.request));
    return ended;
  }

  std::vector<int32_t> RunToEnd() {
    while (scheduler_->has_work()) {
      for (const auto& request : Step()) {
        const auto& tokens = request->sequences[0]->tokens;
        return {tokens.begin() + static_cast<std::ptrdiff_t>(request->request.prompt.size()),
                tokens.end()};
      }
    }
    return {};
  }

  EngineOptions options_;
  EngineLimits limits_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<FakeRunner> runner_;
  int preemptions_ = 0, hit_tokens_ = 0;
};

TEST_F(MixedWindowTest, SlidingGroupsHoldTheirWindowOnly) {
  options_.prefix_caching = false;
  Start();
  const Sequence* sequence = Add(Make(1000, 1000));
  int most_sliding = 0;
  while (sequence->computed < 1900) {
    Step();
    const auto held = [&](int group) {
      const BlockTable& table = sequence->tables[group];
      return table.size() - table.first_block;
    };
    ASSERT_GE(held(0), BlocksForTokens(sequence->computed, kBlock));
    ASSERT_LE(held(0), BlocksForTokens(std::max(1000, sequence->computed) + 1, kBlock));
    int sum = 0;
    for (int group = 0; group < kGroups; ++group) sum += held(group);
    // The gauge is made of the allocator's counts: nothing is held that no table has.
    ASSERT_EQ(scheduler_->blocks_used(), sum);
    ASSERT_EQ(scheduler_->allocator().num_free(), limits_.num_blocks - sum);
    ASSERT_LE(sum, limits_.demand().BlocksOf(2000));
    most_sliding = std::max(most_sliding, held(1));
    if (sequence->computed > 1000) {
      ASSERT_LE(held(1), kWindow / kBlock + 1) << "decoding";
    }
  }
  EXPECT_LE(most_sliding, (kWindow + kStep) / kBlock + 2) << "also while the prompt is computed";
  EXPECT_GE(most_sliding, kWindow / kBlock);
  StepEvents events;
  scheduler_->EndAll({}, {}, EndReason::kShutdown, &events);
  EXPECT_EQ(scheduler_->blocks_used(), 0);
}

// A pool of which one table for all layers would hold 100 tokens.
TEST_F(MixedWindowTest, APoolHoldsLongerRequestsThanWithOneTable) {
  limits_.num_blocks = 100 / kBlock * kGroups;
  const int longest = static_cast<int>(limits_.demand().LongestIn(limits_.num_blocks));
  EXPECT_EQ(longest, (limits_.num_blocks - 5 * ((kWindow + kStep) / kBlock + 2)) * kBlock);
  ASSERT_GT(longest, 250);
  Request request = Make(longest - 20, 21);
  const ReferenceOutput alone = RunAlone(limits_, request, 0);
  EXPECT_EQ(alone.tokens.size(), 21u);
  Start();
  Add(request);
  EXPECT_EQ(RunToEnd(), alone.tokens);
  EXPECT_EQ(preemptions_, 0);
  request.prompt.resize(longest + 1);
  EXPECT_EQ(CheckRequest(limits_, &request).fault, RequestFault::kTooLong);
}

TEST_F(MixedWindowTest, APrefixIsFoundWhereAllGroupsStillHaveIt) {
  Start();
  Add(Make(400, 1));
  RunToEnd();
  EXPECT_EQ(hit_tokens_, 0);
  Add(Make(400, 1));
  RunToEnd();
  EXPECT_EQ(hit_tokens_, 400 - kBlock) << "the last token is computed";
  // Until nothing of the window before position 200 is left, a prompt that ends there finds it too.
  Add(Make(202, 1));
  RunToEnd();
  EXPECT_EQ(hit_tokens_, 400 - kBlock + 200);
  EXPECT_EQ(scheduler_->blocks_used(), 0);
}

}  // namespace
}  // namespace palu
