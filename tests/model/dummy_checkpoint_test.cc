// Models of random weights: every family's tensors are there, in dense and factored form.
#include "engine/model/dummy_checkpoint.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/model/json_file.h"
#include "engine/model/model_runner.h"
#include "engine/status.h"
#include "tests/test_paths.h"

namespace palu::testing {
namespace {

DummyModel Zoo(const std::string& name, DummyRecipe recipe = {}) {
  const std::string path = SourceDir() + "/tests/golden/zoo/" + name + "/config.json";
  return {name, ReadFile(path), recipe};
}

std::unique_ptr<ModelRunner> Load(const DummyModel& dummy) {
  EngineOptions engine;
  engine.device = "cpu";
  engine.cpu_threads = 1;
  CacheOptions cache;
  cache.memory_bytes = 4 << 20;
  cache.group_layers = false;
  ModelOptions model;
  model.max_context_tokens = 64;
  return ModelRunner::LoadDummy(dummy, model, engine, cache);
}

TEST(DummyCheckpoint, EveryFamilyComputes) {
  for (const char* name : {"llama31-gqa", "mistral-swa", "qwen2", "qwen3", "phi3", "mixtral-moe",
                           "qwen3-moe", "gemma3"}) {
    for (const DummyRecipe& recipe : {DummyRecipe{}, DummyRecipe{1, 2, 8, 24}}) {
      SCOPED_TRACE(name);
      const auto runner = Load(Zoo(name, recipe));
      float largest = 0;
      runner->ObserveLogits([&](int64_t, std::span<const float> logits) {
        for (const float x : logits) largest = std::max(largest, std::fabs(x));
      });
      SamplingParams greedy;
      greedy.temperature = 0;
      StepBatch batch;
      batch.token_ids = {1, 2, 3};
      batch.positions = {0, 1, 2};
      batch.cu_seqlens = {0, 3};
      batch.context_lens = {3};
      batch.slot_mapping = {0, 1, 2};
      batch.block_tables = {0};
      batch.max_blocks = 1;
      batch.rows = {{.token_index = 2, .params = &greedy}};
      EXPECT_EQ(runner->Run(batch).tokens.size(), 1u);
      EXPECT_GT(largest, 0.0f);
      EXPECT_LT(largest, 1e4f);
      EXPECT_EQ(runner->cache_report().layers[0].key.dense, recipe.key_rank == 0);
    }
  }
}

TEST(DummyCheckpoint, TensorsAreDistinctOnlyWhereAsked) {
  const DummyModel dummy = Zoo("qwen2");
  const ModelConfig config = ModelConfig::Parse(dummy.config_json, dummy.name);
  const auto plan = DummyPlan(dummy, config);
  for (const bool distinct : {false, true}) {
    const Safetensors files = DummyCheckpoint(dummy, config, plan, distinct);
    const SafetensorsEntry* gate = files.Find("model.layers.0.mlp.gate_proj.weight");
    const SafetensorsEntry* up = files.Find("model.layers.0.mlp.up_proj.weight");
    ASSERT_NE(gate, nullptr);
    ASSERT_NE(up, nullptr);
    EXPECT_EQ(gate->data.data() != up->data.data(), distinct);
  }
}

TEST(DummyCheckpoint, RecipesThatDoNotFitAreRefused) {
  EXPECT_THROW(Load(Zoo("qwen2", {1, 1, 33, 0})), LoadError);
  EXPECT_THROW(Load(Zoo("qwen2", {3, 1, 8, 0})), LoadError);
}

}  // namespace
}  // namespace palu::testing
