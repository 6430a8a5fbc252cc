// The simulator against cases whose times can be worked out by hand, and its sanity under load.
#include "tools/bench/simulator.h"

#include <gtest/gtest.h>

namespace palu::bench {
namespace {

EngineOptions Options() {
  EngineOptions options;
  options.max_sequences = 8;
  options.step_tokens = 64;
  return options;
}

EngineLimits Limits(int blocks) {
  EngineLimits limits;
  limits.max_context_tokens = 4096;
  limits.block_tokens = 16;
  limits.num_blocks = blocks;
  limits.vocab_size = 1 << 30;
  return limits;
}

Trace Make(std::vector<TraceRequest> requests, int prefix_block_tokens = 0) {
  return {std::move(requests), prefix_block_tokens};
}

TEST(Simulator, OneRequestTakesWhatItsStepsTake) {
  // 100 prompt tokens in chunks of 64 and 36, the second of which draws; then 4 steps of one token.
  const StepModel model{.fixed = 1, .per_token = 0.01, .per_sequence = 0.1};
  const SimulationResult r = Simulate(Make({{5.0, 100, 5, {}}}), Options(), Limits(100), model,
                                      {.first_token_seconds = 3.3, .inter_token_seconds = 1.2});
  EXPECT_EQ(r.served, 1);
  EXPECT_EQ(r.within_objectives, 1);
  EXPECT_EQ(r.output_tokens, 5);
  ASSERT_EQ(r.first_token_seconds.size(), 1u);
  EXPECT_NEAR(r.first_token_seconds[0], 2 * 1.1 + 1.0, 1e-6);
  EXPECT_NEAR(r.inter_token_seconds[0], 1.11, 1e-6);
  EXPECT_NEAR(r.seconds, 3.2 + 4 * 1.11, 1e-6);
}

TEST(Simulator, SharedPrefixesAreComputedOnce) {
  const StepModel model{.fixed = 1e-3, .per_token = 1e-3};
  const std::vector<TraceRequest> requests = {
      {0, 64, 2, {7, 8}}, {10, 64, 2, {7, 9}}, {20, 64, 2, {3, 8}}};
  const SimulationResult r = Simulate(Make(requests, 32), Options(), Limits(100), model, {});
  EXPECT_EQ(r.prefix_query_tokens, 3 * 64);
  EXPECT_EQ(r.prefix_hit_tokens, 32) << "an id counts at the head only";
  EXPECT_EQ(Simulate(Make({{0, 64, 2, {}}, {10, 64, 2, {}}}), Options(), Limits(100), model, {})
                .prefix_hit_tokens,
            0);
}

TEST(Simulator, AskedTooMuchItRefusesOrPreempts) {
  const StepModel model{.fixed = 1e-2, .per_token = 1e-4};
  std::vector<TraceRequest> requests;
  for (int i = 0; i < 50; ++i) requests.push_back({i * 1e-3, 40, 60, {}});
  requests.push_back({1, 3000, 10, {}});
  EngineOptions options = Options();
  options.max_queue_requests = 20;
  const SimulationResult tight = Simulate(Make(requests), options, Limits(24), model, {});
  EXPECT_EQ(tight.refused_too_long, 1);
  EXPECT_GT(tight.refused_queue, 0);
  EXPECT_GT(tight.preemptions, 0);
  EXPECT_EQ(tight.served + tight.refused_queue + tight.refused_too_long, 51);
  const SimulationResult roomy = Simulate(Make(requests), options, Limits(400), model, {});
  EXPECT_EQ(roomy.preemptions, 0);
  EXPECT_LT(roomy.seconds, tight.seconds * roomy.served / tight.served);
}

TEST(Simulator, TheHostTierIsUsedWhereTextsComeAgain) {
  // A block of 16 tokens takes 16 ms to compute and 4 ms to copy, each way.
  const StepModel model{.per_token = 1e-3, .per_block_move = 4e-3};
  EngineLimits limits = Limits(32);
  limits.num_host_blocks = 256;
  limits.block_copy_seconds = model.per_block_move;
  const auto run = [&](int distinct_texts, int host_blocks) {
    std::vector<TraceRequest> requests;
    for (int i = 0; i < 600; ++i) requests.push_back({1.0 * i, 200, 2, {i % distinct_texts}});
    limits.num_host_blocks = host_blocks;
    return Simulate(Make(requests, 192), Options(), limits, model, {});
  };
  const auto mean = [](const SimulationResult& r) {
    double sum = 0;
    for (const double value : r.first_token_seconds) sum += value;
    return sum / static_cast<double>(r.first_token_seconds.size());
  };
  // Eight texts of 12 blocks come in turn: too many for the device, few enough for the host.
  const SimulationResult again = run(8, 256), again_without = run(8, 0);
  EXPECT_GT(again.host_loaded_blocks, 550u * 10);
  EXPECT_EQ(again_without.prefix_hit_tokens, 0);
  EXPECT_LT(mean(again), 0.7 * mean(again_without));
  // No text comes twice: after a while nothing is stored.
  const SimulationResult never = run(600, 256), never_without = run(600, 0);
  EXPECT_LT(never.host_stored_blocks, 600u * 12 / 20);
  EXPECT_LT(mean(never), 1.05 * mean(never_without));
}

TEST(Simulator, LayerGroupsHoldMoreRequestsThanOneTable) {
  // Six groups, five of which slide: 64 requests of 600 tokens at once, on the same bytes.
  const StepModel model{.fixed = 1e-2, .per_token = 1e-4};
  std::vector<TraceRequest> requests;
  for (int i = 0; i < 64; ++i) requests.push_back({i * 1e-3, 500, 100, {}});
  EngineOptions options = Options();
  options.max_sequences = 32;
  options.prefix_caching = false;
  EngineLimits one_table = Limits(150);
  EngineLimits grouped = Limits(6 * 150);
  grouped.group_windows = {0, 64, 64, 64, 64, 64};
  grouped.max_chunk_tokens = options.step_tokens;
  const SimulationResult a = Simulate(Make(requests), options, one_table, model, {});
  const SimulationResult b = Simulate(Make(requests), options, grouped, model, {});
  EXPECT_EQ(a.served, 64);
  EXPECT_EQ(b.served, 64);
  EXPECT_LE(a.most_running, 150 / 32);
  EXPECT_GE(b.most_running, 2 * a.most_running);
  EXPECT_LE(b.most_blocks, 900);
  EXPECT_LT(b.seconds, 0.7 * a.seconds);
}

TEST(Simulator, TimeOutsideOfTheEngineIsPartOfTheFirstToken) {
  const StepModel model{.fixed = 1};
  const SimulationResult r = Simulate(Make({{5.0, 10, 3, {}}}), Options(), Limits(100), model, {},
                                      {.before_seconds = 0.25, .after_seconds = 0.5});
  ASSERT_EQ(r.first_token_seconds.size(), 1u);
  EXPECT_NEAR(r.first_token_seconds[0], 0.25 + 1 + 0.5, 1e-6);
  EXPECT_NEAR(r.inter_token_seconds[0], 1, 1e-6);
}

TEST(Simulator, PercentilesAreOfTheValuesThere) {
  EXPECT_EQ(Percentile({}, 0.5), 0);
  EXPECT_EQ(Percentile({1, 2, 3, 4}, 0.5), 2);
  EXPECT_EQ(Percentile({1, 2, 3, 4}, 0.99), 4);
  EXPECT_EQ(Percentile({1, 2, 3, 4}, 0), 1);
}

}  // namespace
}  // namespace palu::bench
