// A model whose layers all slide (Mistral's kind): blocks out of the window are given back, and
// nothing about the answers changes.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/model/model_runner.h"
#include "tests/engine/engine_fixture.h"
#include "tests/test_paths.h"

namespace palu {
namespace {

using testing::ReadAll;

struct Outcome {
  std::vector<std::vector<int32_t>> answers;
  MetricsSnapshot metrics;
};

struct Setup {
  bool give_back = true;
  bool prefix_caching = false;
  int pool_tokens = 256;
  int host_blocks = 0;
  int step_tokens = 512;
  int prompt = 30, output = 210;
};

// Four requests, greedy.
Outcome RunAll(const Setup& setup) {
  EngineOptions options;
  options.device = "cpu";
  options.prefix_caching = setup.prefix_caching;
  options.step_tokens = setup.step_tokens;
  ModelOptions model;
  model.path = testing::SourceDir() + "/tests/golden/zoo/mistral-swa";
  model.max_context_tokens = 256;
  CacheOptions cache;
  // 3 layers, keys and values of 4 heads of 16 in bf16.
  constexpr int64_t kTokenBytes = 3 * 2 * 64 * 2;
  cache.memory_bytes = setup.pool_tokens * kTokenBytes;
  cache.host_memory = setup.host_blocks * 16 * kTokenBytes;
  const auto runner = ModelRunner::Load(model, options, cache);
  EngineLimits limits = runner->limits();
  EXPECT_EQ(limits.num_blocks, setup.pool_tokens / 16);
  EXPECT_EQ(limits.group_windows, std::vector<int>{24});
  if (!setup.give_back) limits.group_windows = {0};
  Engine engine(options, limits, runner.get());
  std::vector<RequestHandle> handles;
  for (int i = 0; i < 4; ++i) {
    Request request;
    for (int token = 0; token < setup.prompt; ++token) {
      request.prompt.push_back(3 + (token * 7 + i) % 500);
    }
    request.sampling.max_tokens = setup.output;
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    handles.push_back(std::move(*engine.Submit(std::move(request))));
  }
  Outcome outcome;
  for (RequestHandle& handle : handles) {
    outcome.answers.push_back(ReadAll(handle).choices[0].tokens);
  }
  outcome.metrics = engine.metrics();
  return outcome;
}

TEST(WindowModel, BlocksOutOfTheWindowServeOthers) {
  const Outcome kept = RunAll({.give_back = false});
  EXPECT_GT(kept.metrics.preemptions, 0u) << "the pool is too large for this test";
  for (const bool prefix_caching : {false, true}) {
    const Outcome given_back = RunAll({.prefix_caching = prefix_caching});
    EXPECT_EQ(given_back.answers, kept.answers);
    EXPECT_EQ(given_back.metrics.preemptions, 0u);
    EXPECT_EQ(given_back.metrics.blocks_used, 0);
  }
}

// Prompts of 200 tokens where the pool holds 96: a window of 24, a chunk of 16 and two blocks each.
TEST(WindowModel, PromptsNeedAWindowAndAChunkOnly) {
  const Outcome kept =
      RunAll({.give_back = false, .pool_tokens = 1024, .prompt = 200, .output = 56});
  EXPECT_EQ(kept.metrics.preemptions, 0u);
  for (const bool prefix_caching : {false, true}) {
    for (const int host_blocks : {0, 40}) {
      SCOPED_TRACE(prefix_caching);
      const Outcome tight = RunAll({.prefix_caching = prefix_caching,
                                    .pool_tokens = 96,
                                    .host_blocks = host_blocks,
                                    .step_tokens = 16,
                                    .prompt = 200,
                                    .output = 56});
      EXPECT_EQ(tight.answers, kept.answers);
      EXPECT_EQ(tight.metrics.blocks_used, 0);
    }
  }
}

}  // namespace
}  // namespace palu
