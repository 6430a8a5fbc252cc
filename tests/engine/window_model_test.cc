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

// Four requests that grow to 240 tokens each, in a pool that holds 256 tokens.
Outcome RunAll(bool give_back, bool prefix_caching) {
  EngineOptions options;
  options.device = "cpu";
  options.prefix_caching = prefix_caching;
  ModelOptions model;
  model.path = testing::SourceDir() + "/tests/golden/zoo/mistral-swa";
  model.max_context_tokens = 256;
  CacheOptions cache;
  // 3 layers, keys and values of 4 heads of 16 in bf16.
  cache.memory_bytes = int64_t{256} * 3 * 2 * 64 * 2;
  const auto runner = ModelRunner::Load(model, options, cache);
  EngineLimits limits = runner->limits();
  EXPECT_EQ(limits.num_blocks, 16);
  EXPECT_EQ(limits.group_windows, std::vector<int>{24});
  if (!give_back) limits.group_windows = {0};
  Engine engine(options, limits, runner.get());
  std::vector<RequestHandle> handles;
  for (int i = 0; i < 4; ++i) {
    Request request;
    for (int token = 0; token < 30; ++token) request.prompt.push_back(3 + (token * 7 + i) % 500);
    request.sampling.max_tokens = 210;
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
  const Outcome kept = RunAll(false, false);
  EXPECT_GT(kept.metrics.preemptions, 0u) << "the pool is too large for this test";
  for (const bool prefix_caching : {false, true}) {
    const Outcome given_back = RunAll(true, prefix_caching);
    EXPECT_EQ(given_back.answers, kept.answers);
    EXPECT_EQ(given_back.metrics.preemptions, 0u);
    EXPECT_EQ(given_back.metrics.blocks_used, 0);
  }
}

}  // namespace
}  // namespace palu
