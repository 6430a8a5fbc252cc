// palu_config.json and head_wise_ranks, and how cache options fill what they leave open.
#include "engine/model/palu_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/status.h"
#include "tests/model/checkpoint_maker.h"

namespace palu::testing {
namespace {

ModelConfig TwoLayers() {
  ModelConfig config;
  config.num_layers = 2;
  config.num_kv_heads = 4;
  config.head_dim = 64;
  return config;
}

nlohmann::json LowRank() {
  return {{"kind", "low_rank"},
          {"group_size", 2},
          {"ranks", {64, 96}},
          {"format", "int4"},
          {"rotation", "folded"}};
}

nlohmann::json File(const nlohmann::json& k, const nlohmann::json& v) {
  return {{"format", "palu"},
          {"version", 1},
          {"method", {{"anything", {1, 2}}}},
          {"layers", {{{"k", k}, {"v", v}}, {{"k", k}, {"v", v}}}}};
}

std::vector<LayerPlan> Parse(const nlohmann::json& json) {
  return ParsePaluConfig(json.dump(), "palu_config.json", TwoLayers());
}

void ExpectError(const nlohmann::json& json, const std::vector<std::string>& parts) {
  try {
    Parse(json);
    ADD_FAILURE() << json.dump();
  } catch (const LoadError& error) {
    const std::string what = error.what();
    EXPECT_EQ(what.rfind("palu_config.json: key \"", 0), 0u) << what;
    for (const std::string& part : parts) EXPECT_NE(what.find(part), std::string::npos) << what;
  }
}

TEST(PaluConfig, Reads) {
  const auto plan = Parse(File(LowRank(), {{"kind", "dense"}, {"format", "int8"}}));
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_FALSE(plan[1].key.dense);
  EXPECT_EQ(plan[1].key.heads_per_group, 2);
  EXPECT_EQ(plan[1].key.ranks, (std::vector<int>{64, 96}));
  EXPECT_EQ(plan[1].key.format, LatentFormat::kInt4);
  EXPECT_EQ(plan[1].key.rotation, Rotation::kFolded);
  EXPECT_TRUE(plan[0].value.dense);
  EXPECT_EQ(plan[0].value.ranks, (std::vector<int>{64, 64, 64, 64}));
  EXPECT_EQ(plan[0].value.format, LatentFormat::kInt8);
  EXPECT_FALSE(plan[0].value.rotation.has_value());
}

TEST(PaluConfig, Errors) {
  const auto with = [](const std::string& key, const nlohmann::json& value) {
    nlohmann::json entry = LowRank();
    entry[key] = value;
    return File(entry, LowRank());
  };
  ExpectError(with("kind", "sparse"),
              {"layers[0].k.kind", "found \"sparse\"", "dense or low_rank"});
  ExpectError(with("group_size", 3), {"layers[0].k.group_size", "found 3", "divisor", "= 4"});
  ExpectError(with("group_size", 8), {"group_size", "found 8", "1 to 4"});
  ExpectError(with("group_size", nullptr), {"group_size", "found null"});
  ExpectError(with("ranks", {64}), {"layers[0].k.ranks", "found [64]", "2 ranks", "4 KV heads"});
  ExpectError(with("ranks", {64, 129}), {"ranks", "129", "from 1 to 128"});
  ExpectError(with("ranks", {64, 0}), {"ranks", "from 1 to 128"});
  ExpectError(with("format", "int5"), {"format", "found \"int5\"", "int3"});
  ExpectError(with("rotation", "random"), {"rotation", "found \"random\"", "folded"});
  ExpectError(File(LowRank(), {{"kind", "dense"}, {"rotation", "folded"}}),
              {"layers[0].v.rotation", "found \"folded\"", "auto, none or hadamard"});
  nlohmann::json json = File(LowRank(), LowRank());
  json["version"] = 2;
  ExpectError(json, {"version", "found 2", "expected 1"});
  json["version"] = 1;
  json["format"] = "gguf";
  ExpectError(json, {"format", "found \"gguf\"", "\"palu\""});
  json["format"] = "palu";
  json["layers"].erase(0);
  ExpectError(json, {"layers", "found 1 entries", "expected 2", "num_hidden_layers"});
  json["layers"] = 3;
  ExpectError(json, {"layers", "found 3", "an array"});
  json = File(LowRank(), LowRank());
  json["layers"][1].erase("v");
  ExpectError(json, {"layers[1].v", "found nothing"});
}

TEST(HeadWiseRanks, GroupSizeFollowsFromTheirNumber) {
  const nlohmann::json json = {
      {"head_wise_ranks",
       {{"model.layers.0.self_attn.k_proj", {64}}, {"model.layers.1.self_attn.v_proj", {32, 16}}}}};
  const auto plan = ParseHeadWiseRanks(json.dump(), "config.json", TwoLayers());
  EXPECT_EQ(plan[0].key.heads_per_group, 4);
  EXPECT_EQ(plan[0].key.ranks, (std::vector<int>{64}));
  EXPECT_TRUE(plan[0].value.dense);
  EXPECT_TRUE(plan[1].key.dense);
  EXPECT_EQ(plan[1].value.heads_per_group, 2);
  EXPECT_FALSE(plan[1].value.format.has_value());
}

TEST(HeadWiseRanks, Errors) {
  const auto expect = [](const nlohmann::json& ranks, const std::vector<std::string>& parts) {
    try {
      ParseHeadWiseRanks(nlohmann::json{{"head_wise_ranks", ranks}}.dump(), "config.json",
                         TwoLayers());
      ADD_FAILURE() << ranks.dump();
    } catch (const LoadError& error) {
      for (const std::string& part : parts) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
      }
    }
  };
  const std::string name = "model.layers.0.self_attn.k_proj";
  expect({{name, {1, 2, 3}}}, {name, "[1,2,3]", "divide num_key_value_heads = 4"});
  expect({{name, nlohmann::json::array()}}, {name, "found []"});
  expect({{name, {257}}}, {name, "1 to 256"});
  expect({{name, "64"}}, {name, "an array"});
  expect({{"model.layers.2.self_attn.k_proj", {64}}}, {"layers.2", "layers 0 to 1"});
}

// Only what the checkpoint leaves open is settled by the options.
TEST(ResolveCache, OptionsFillTheGaps) {
  TempDir directory;
  Checkpoint checkpoint;
  checkpoint.tensors["model.layers.0.self_attn.v_proj.VT.weight"] =
      TensorData::Of("F16", {1, 1}, {1});
  checkpoint.Write(directory.path());
  const Safetensors files = Safetensors::OpenDirectory(directory.path());
  LayerPlan layer;
  layer.value.dense = false;
  LayerPlan settled;
  settled.key.format = LatentFormat::kInt3;
  settled.key.rotation = Rotation::kNone;
  settled.value.dense = false;
  settled.value.format = LatentFormat::kInt2;
  settled.value.rotation = Rotation::kFolded;
  const auto resolve = [&](const std::string& format, const std::string& rotation) {
    CacheOptions options;
    options.format = format;
    options.rotation = rotation;
    return ResolveCache({layer, settled}, options, files);
  };
  auto specs = resolve("auto", "auto");
  EXPECT_EQ(specs[0].key.format, LatentFormat::kBF16);
  EXPECT_EQ(specs[0].value.format, LatentFormat::kF16);
  EXPECT_FALSE(specs[0].key.hadamard);
  for (const char* name : {"fp8", "fp8_e4m3"}) {
    EXPECT_EQ(resolve(name, "auto")[0].key.format, LatentFormat::kFp8);
    EXPECT_FALSE(resolve(name, "auto")[0].key.hadamard);
    EXPECT_TRUE(resolve(name, "auto")[0].value.hadamard);
  }
  specs = resolve("int4", "auto");
  EXPECT_EQ(specs[0].key.format, LatentFormat::kInt4);
  EXPECT_TRUE(specs[0].key.hadamard);
  EXPECT_TRUE(specs[0].value.hadamard);
  EXPECT_EQ(specs[1].key.format, LatentFormat::kInt3);
  EXPECT_FALSE(specs[1].key.hadamard);
  EXPECT_EQ(specs[1].value.format, LatentFormat::kInt2);
  EXPECT_FALSE(specs[1].value.hadamard);
  EXPECT_FALSE(resolve("int4", "none")[0].key.hadamard);
  EXPECT_TRUE(resolve("bf16", "hadamard")[0].key.hadamard);
  EXPECT_THROW(resolve("int4", "fourier"), std::runtime_error);
}

}  // namespace
}  // namespace palu::testing
