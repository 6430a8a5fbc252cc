// What a step is said to take, against sums done by hand; and the table of a real model.
#include "tools/bench/step_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/status.h"
#include "tests/test_paths.h"
#include "tools/bench/commands.h"
#include "tools/bench/step_costs.h"

namespace palu::bench {
namespace {

std::string Gemma() { return testing::SourceDir() + "/tests/golden/zoo/gemma3"; }

std::string WriteTemporary(const std::string& name, const std::string& text) {
  const std::string path =
      (std::filesystem::temp_directory_path() / (name + std::to_string(getpid()))).string();
  std::ofstream(path) << text;
  return path;
}

TEST(StepModel, IsASumOverWhatTheStepDoes) {
  StepWork work;
  work.Add({{}}, 100, 1, true);
  work.Add({{}}, 10, 100, false);
  EXPECT_EQ(work.tokens, 101);
  EXPECT_EQ(work.sequences, 2);
  EXPECT_EQ(work.draws, 1);
  EXPECT_EQ(work.decode_context, 101);
  EXPECT_EQ(work.chunk_context, 2 * 110) << "100 queries are two tiles of 64";
  EXPECT_EQ(work.chunk_pairs, 100 * 10 + 100 * 101 / 2);
  StepModel model;
  model.fixed = 1;
  model.per_decode_context = 10;
  model.per_chunk_context = 100;
  model.per_chunk_pair = 1000;
  model.tokens = {{1, 3}, {101, 5}, {201, 9}};
  model.draws = {{1, 0.5}, {2, 0.7}};
  EXPECT_DOUBLE_EQ(model.Seconds(work), 1 + 1010 + 22000 + 6050000 + 5 + 0.5);
  EXPECT_DOUBLE_EQ(model.Seconds({.tokens = 51, .draws = 2}), 1 + 4 + 0.7);
  EXPECT_DOUBLE_EQ(model.Seconds({.tokens = 301}), 1 + 13) << "on along the last line";
  EXPECT_DOUBLE_EQ(Slower(model, 1.5).Seconds(work), 1.5 * model.Seconds(work));
}

TEST(StepModel, WindowsBoundWhatIsRead) {
  const std::vector<LayerShare> layers = {{0, 0.25}, {32, 0.75}};
  StepWork decode, chunk;
  decode.Add(layers, 99, 1, true);
  EXPECT_DOUBLE_EQ(decode.decode_context, 0.25 * 100 + 0.75 * 32);
  chunk.Add(layers, 96, 4, false);
  EXPECT_DOUBLE_EQ(chunk.chunk_context, 0.25 * 100 + 0.75 * (32 + 3));
  EXPECT_DOUBLE_EQ(chunk.chunk_pairs, 0.25 * (4 * 96 + 10) + 0.75 * 4 * 32);
}

TEST(MeasuredCosts, AreReadAsWrittenAndCheckedWithTheKey) {
  MeasuredCosts costs;
  costs.model = "m";
  costs.backend = "b";
  costs.block_bytes = 98304;
  costs.group_windows = {0, 1024};
  costs.max_context_tokens = 2048;
  costs.step.fixed = 1e-4;
  costs.step.tokens = {{1, 0.001}, {256, 0.1}};
  costs.step.draws = {{1, 0.0005}};
  costs.step.per_chunk_pair = 2e-9;
  costs.step.layers = {{0, 0.5}, {1024, 0.5}};
  const std::string path = WriteTemporary("palu-costs", ToJson(costs));
  const MeasuredCosts read = LoadCosts(path);
  EXPECT_EQ(read.group_windows, costs.group_windows);
  EXPECT_EQ(read.block_bytes, 98304);
  StepWork work;
  work.Add(costs.step.layers, 2000, 40, true);
  EXPECT_NEAR(read.step.Seconds(work), costs.step.Seconds(work), 1e-9);
  for (const auto& [from, to, key] :
       {std::tuple{"\"count\": 256", "\"count\": 1", "count"},
        std::tuple{"\"chunk_pair_ns\": 2", "\"chunk_pair_ns\": -2", "chunk_pair_ns"},
        std::tuple{"\"block_bytes\"", "\"bytes\"", "block_bytes"}}) {
    std::string text = ToJson(costs);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from << text;
    WriteTemporary("palu-costs", text.replace(at, std::string(from).size(), to));
    try {
      LoadCosts(path);
      FAIL() << key;
    } catch (const LoadError& error) {
      EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
  }
  std::filesystem::remove(path);
}

// The cache of a table is the one that the engine would have, layer groups and all.
TEST(StepCosts, HaveTheEnginesCacheAndPricesThatGrow) {
  ModelOptions model;
  model.path = Gemma();
  EngineOptions engine;
  engine.device = "cpu";
  engine.cpu_threads = 1;
  engine.step_tokens = 32;
  engine.max_sequences = 4;
  CacheOptions cache;
  cache.memory_bytes = 16 << 20;
  const EngineLimits limits = ModelRunner::Load(model, engine, cache)->limits();
  ASSERT_EQ(limits.group_windows.size(), 6u);
  cache.group_layers = false;
  const auto runner = ModelRunner::Load(model, engine, cache);
  const CostMeasurement measured = MeasureCosts(runner.get(), engine, cache, 3);
  EXPECT_EQ(measured.costs.group_windows, limits.group_windows);
  EXPECT_EQ(measured.costs.block_bytes, static_cast<double>((16 << 20) / limits.num_blocks));
  const StepModel& step = measured.costs.step;
  ASSERT_EQ(step.layers.size(), 2u);
  EXPECT_DOUBLE_EQ(step.layers[1].share, 5.0 / 6);
  EXPECT_EQ(step.tokens.front().count, 1);
  EXPECT_EQ(step.tokens.back().count, 32);
  EXPECT_GT(step.tokens.back().seconds, step.tokens.front().seconds);
  EXPECT_EQ(step.draws.back().count, 4);
  EXPECT_GT(step.fixed, 0);
  EXPECT_EQ(measured.checks.size(), 9u);
}

// palu-bench simulate: the groups and blocks of a config.json are those of the engine, and
// sequences give blocks back.
TEST(SimulateCommand, ShapesAModelsCacheAsTheEngineDoes) {
  ModelOptions model;
  model.path = Gemma();
  EngineOptions engine;
  engine.device = "cpu";
  engine.step_tokens = 32;
  CacheOptions cache;
  cache.memory_bytes = 2'000'000;
  const EngineLimits limits = ModelRunner::Load(model, engine, cache)->limits();
  const std::string trace = WriteTemporary(
      "palu-trace",
      R"({"timestamp": 0, "input_length": 600, "output_length": 300, "hash_ids": []})");
  std::filesystem::rename(trace, trace + ".jsonl");
  CLI::App app;
  AddSimulateCommand(&app);
  ::testing::internal::CaptureStdout();
  app.parse("simulate --json --trace " + trace + ".jsonl --cache gemma:" + Gemma() +
            "@bf16:10 --pool-gb 0.002 --step-tokens 32 --max-context 1024 --prefix-caching false");
  const nlohmann::json row = nlohmann::json::parse(::testing::internal::GetCapturedStdout()).at(0);
  std::filesystem::remove(trace + ".jsonl");
  EXPECT_EQ(row["group_windows"].get<std::vector<int>>(), limits.group_windows);
  EXPECT_EQ(row["blocks"].get<int>(), limits.num_blocks);
  EXPECT_EQ(row["capacity_tokens"].get<int64_t>(),
            limits.demand().TokensIn(limits.num_blocks, 1024));
  EXPECT_EQ(row["served"].get<int>(), 1);
  // 899 tokens of the full layer; of each other at most a window of 16, a chunk of 32, two blocks.
  EXPECT_GE(row["most_blocks"].get<int>(), 57 + 5 * 1);
  EXPECT_LE(row["most_blocks"].get<int>(), 57 + 5 * 5);
}

}  // namespace
}  // namespace palu::bench
