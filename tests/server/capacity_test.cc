// What is said of a cache's capacity where sliding and full layers are mixed.
#include <gtest/gtest.h>

#include "engine/model/model_runner.h"
#include "server/app.h"
#include "server/plan.h"
#include "tests/test_paths.h"

namespace palu {
namespace {

// Gemma 3 of the zoo: six layers of 256 bytes a token in bf16, five with a window of 16 tokens.
constexpr int64_t kBlockBytes = 16 * 256;

std::string Gemma() { return testing::SourceDir() + "/tests/golden/zoo/gemma3"; }

// 1024 tokens of the full layer; of each other a window, a step of 32 tokens and two blocks.
constexpr int64_t kBlocksPerRequest = 64 + 5 * ((16 + 32) / 16 + 2);

TEST(Capacity, PlanCountsTheWindowsOfSlidingLayers) {
  PlanRequest request;
  request.model.path = Gemma();
  request.engine.step_tokens = 32;
  request.reserve_fraction = 0;
  request.memory_bytes = 64 << 20;
  const Plan plan = MakePlan(request);
  EXPECT_EQ(plan.context_tokens, 1024);
  const int64_t blocks = (request.memory_bytes - plan.weights_bytes) / kBlockBytes;
  EXPECT_EQ(plan.pool_bytes, blocks * kBlockBytes);
  EXPECT_EQ(plan.users, blocks / kBlocksPerRequest);
  EXPECT_EQ(plan.capacity_tokens, blocks * 1024 / kBlocksPerRequest);
  EXPECT_EQ(plan.bytes_per_token, 6 * 256);
  EXPECT_EQ(plan.bytes_per_token_beyond_windows, 256);
  EXPECT_EQ(plan.users_uncompressed, blocks / 6 / 64);
}

TEST(Capacity, StartUpPrintsIt) {
  ModelOptions model;
  model.path = Gemma();
  EngineOptions engine;
  engine.device = "cpu";
  engine.step_tokens = 32;
  CacheOptions cache;
  cache.memory_bytes = 10 * kBlocksPerRequest * kBlockBytes;
  LoadedModel loaded;
  loaded.info.cache = ModelRunner::Load(model, engine, cache)->cache_report();
  const std::string text = DescribeModel(loaded);
  EXPECT_NE(text.find("= 10240 tokens = 10.0 full-length requests"), std::string::npos) << text;
  EXPECT_NE(text.find("KV per token 1536.0 bytes"), std::string::npos) << text;
  EXPECT_NE(text.find("256.0 bytes once the sliding window of 16 tokens has passed it"),
            std::string::npos)
      << text;
}

// 3 layers with a window of 24 tokens, 768 bytes a token: a request of any length takes the window,
// a step of 32 tokens and two blocks.
TEST(Capacity, WhereAllLayersSlideAWindowIsEnough) {
  constexpr int64_t kBlocks = (24 + 32 + 15) / 16 + 2;
  PlanRequest request;
  request.model.path = testing::SourceDir() + "/tests/golden/zoo/mistral-swa";
  request.engine.step_tokens = 32;
  request.reserve_fraction = 0;
  request.memory_bytes = 64 << 20;
  const Plan plan = MakePlan(request);
  const int64_t blocks = (request.memory_bytes - plan.weights_bytes) / (16 * 768);
  EXPECT_EQ(plan.users, blocks / kBlocks);
  EXPECT_EQ(plan.capacity_tokens, blocks * plan.context_tokens / kBlocks);
  EXPECT_EQ(plan.bytes_per_token_beyond_windows, 0);
}

}  // namespace
}  // namespace palu
