// config.json: both spellings of RoPE, families' own rules, and values that cannot be.
#include "engine/model/model_config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/status.h"
#include "tests/model/checkpoint_maker.h"
#include "tests/test_paths.h"

namespace palu::testing {
namespace {

nlohmann::json Base(const std::string& model_type) {
  return {{"model_type", model_type}, {"hidden_size", 64},
          {"intermediate_size", 128}, {"num_hidden_layers", 4},
          {"num_attention_heads", 8}, {"num_key_value_heads", 2},
          {"vocab_size", 100},        {"max_position_embeddings", 2048},
          {"rms_norm_eps", 1e-5}};
}

ModelConfig Parse(const nlohmann::json& config) {
  return ModelConfig::Parse(config.dump(), "config.json");
}

void ExpectError(const nlohmann::json& config, const std::vector<std::string>& parts) {
  try {
    Parse(config);
    ADD_FAILURE() << "no error, wanted " << parts[0];
  } catch (const LoadError& error) {
    const std::string what = error.what();
    EXPECT_EQ(what.rfind("config.json: ", 0), 0u) << what;
    for (const std::string& part : parts) EXPECT_NE(what.find(part), std::string::npos) << what;
  }
}

std::vector<int> Windows(const ModelConfig& config) {
  std::vector<int> windows;
  for (const LayerConfig& layer : config.layers) windows.push_back(layer.window);
  return windows;
}

TEST(ModelConfig, OldAndNewRopeKeysMeanTheSame) {
  nlohmann::json old_keys = Base("llama"), new_keys = Base("llama");
  const nlohmann::json scaling = {{"factor", 8.0},
                                  {"low_freq_factor", 1.0},
                                  {"high_freq_factor", 4.0},
                                  {"original_max_position_embeddings", 64},
                                  {"rope_type", "llama3"}};
  old_keys["rope_theta"] = 500000.0;
  old_keys["rope_scaling"] = scaling;
  new_keys["rope_parameters"] = scaling;
  new_keys["rope_parameters"]["rope_theta"] = 500000.0;
  for (const auto& json : {old_keys, new_keys}) {
    const ModelConfig config = Parse(json);
    ASSERT_EQ(config.ropes.size(), 1u);
    EXPECT_EQ(config.ropes[0].theta, 500000.0);
    EXPECT_EQ(config.ropes[0].scaling, RopeConfig::Scaling::kLlama3);
    EXPECT_EQ(config.ropes[0].original_max_positions, 64);
    EXPECT_EQ(config.ropes[0].rotary_dim, 8);
    EXPECT_EQ(config.head_dim, 8);
  }
}

TEST(ModelConfig, Defaults) {
  nlohmann::json json = Base("llama");
  json.erase("num_key_value_heads");
  json["rope_scaling"] = nullptr;
  const ModelConfig config = Parse(json);
  EXPECT_EQ(config.num_kv_heads, 8);
  EXPECT_EQ(config.ropes.at(0).theta, 10000.0);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_FLOAT_EQ(config.attention_scale, 1 / std::sqrt(8.0f));
  EXPECT_TRUE(config.eos_token_ids.empty());
  EXPECT_EQ(config.max_context(), 2048);
}

TEST(ModelConfig, YarnStretchesTheContext) {
  nlohmann::json json = Base("qwen2");
  json["rope_scaling"] = {
      {"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 2048}};
  EXPECT_EQ(Parse(json).max_context(), 8192);
}

TEST(ModelConfig, Windows) {
  nlohmann::json mistral = Base("mistral");
  EXPECT_EQ(Windows(Parse(mistral)), (std::vector<int>{0, 0, 0, 0}));
  mistral["sliding_window"] = 24;
  EXPECT_EQ(Windows(Parse(mistral)), (std::vector<int>{24, 24, 24, 24}));

  nlohmann::json qwen2 = Base("qwen2");
  qwen2["sliding_window"] = 24;
  qwen2["max_window_layers"] = 3;
  EXPECT_EQ(Windows(Parse(qwen2)), (std::vector<int>{0, 0, 0, 0}));
  qwen2["use_sliding_window"] = true;
  EXPECT_EQ(Windows(Parse(qwen2)), (std::vector<int>{0, 0, 0, 24}));
  qwen2["layer_types"] = {"sliding_attention", "full_attention", "full_attention",
                          "sliding_attention"};
  EXPECT_EQ(Windows(Parse(qwen2)), (std::vector<int>{24, 0, 0, 24}));
  qwen2["layer_types"].erase(0);
  ExpectError(qwen2, {"\"layer_types\"", "4 entries"});
  qwen2["layer_types"].push_back("chunked_attention");
  ExpectError(qwen2, {"\"layer_types\"", "full_attention and sliding_attention"});
}

TEST(ModelConfig, Gemma3OldAndNewKeys) {
  nlohmann::json json = Base("gemma3_text");
  json["query_pre_attn_scalar"] = 16;
  json["sliding_window"] = 32;
  json["sliding_window_pattern"] = 2;
  json["rope_theta"] = 1e6;
  json["rope_local_base_freq"] = 5000.0;
  json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  const ModelConfig config = Parse(json);
  EXPECT_EQ(Windows(config), (std::vector<int>{32, 0, 32, 0}));
  EXPECT_EQ(config.layers[0].rope, 1);
  EXPECT_EQ(config.layers[1].rope, 0);
  EXPECT_EQ(config.ropes.at(0).theta, 1e6);
  EXPECT_EQ(config.ropes.at(0).factor, 8.0);
  EXPECT_EQ(config.ropes.at(1).theta, 5000.0);
  EXPECT_EQ(config.ropes.at(1).scaling, RopeConfig::Scaling::kNone);
  EXPECT_FLOAT_EQ(config.attention_scale, 0.25f);
  EXPECT_FLOAT_EQ(config.embedding_scale, 8.0f);
  EXPECT_TRUE(config.tie_word_embeddings);
  json["final_logit_softcapping"] = 30.0;
  ExpectError(json, {"final_logit_softcapping", "found 30.0", "null"});
}

TEST(ModelConfig, Gemma3NestedTextConfig) {
  nlohmann::json json = {{"model_type", "gemma3"},
                         {"eos_token_id", {1, 106}},
                         {"text_config", {{"num_hidden_layers", 7}, {"hidden_size", 2560}}}};
  const ModelConfig config = Parse(json);
  EXPECT_EQ(config.num_layers, 7);
  EXPECT_EQ(config.hidden_size, 2560);
  EXPECT_EQ(config.head_dim, 256);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{1, 106}));
  json["text_config"]["hidden_size"] = -1;
  ExpectError(json, {"text_config.hidden_size", "found -1"});
}

TEST(ModelConfig, Experts) {
  nlohmann::json json = Base("qwen3_moe");
  json["num_experts"] = 16;
  json["num_experts_per_tok"] = 4;
  json["moe_intermediate_size"] = 32;
  json["norm_topk_prob"] = true;
  json["decoder_sparse_step"] = 2;
  json["mlp_only_layers"] = {3};
  ModelConfig config = Parse(json);
  EXPECT_EQ(config.num_experts, 16);
  EXPECT_TRUE(config.normalize_expert_weights);
  EXPECT_FALSE(config.layers[0].moe);
  EXPECT_TRUE(config.layers[1].moe);
  EXPECT_FALSE(config.layers[3].moe);
  json["num_experts_per_tok"] = 17;
  ExpectError(json, {"num_experts_per_tok", "found 17", "1 to 16"});
  json.erase("num_experts");
  ExpectError(json, {"num_experts", "found nothing"});
}

TEST(ModelConfig, Phi3PartialRotary) {
  nlohmann::json json = Base("phi3");
  json["partial_rotary_factor"] = 0.5;
  EXPECT_EQ(Parse(json).ropes.at(0).rotary_dim, 4);
  json["partial_rotary_factor"] = 0.4;
  ExpectError(json, {"partial_rotary_factor", "found 0.4", "head_dim = 8"});
  json["partial_rotary_factor"] = 1.0;
  json["rope_scaling"] = {{"type", "longrope"}, {"short_factor", {1.0}}, {"long_factor", {1.0}}};
  ExpectError(json, {"rope_scaling.type", "found \"longrope\"", "llama3"});
}

TEST(ModelConfig, WrongValues) {
  const auto with = [](const std::string& key, const nlohmann::json& value) {
    nlohmann::json json = Base("llama");
    json[key] = value;
    return json;
  };
  ExpectError(with("model_type", "mamba"),
              {"model_type", "found \"mamba\"", "qwen3_moe", "paluqwen2"});
  ExpectError(with("model_type", 3), {"model_type", "found 3", "a string"});
  ExpectError(with("hidden_size", "64"), {"hidden_size", "found \"64\"", "an integer from 1"});
  ExpectError(with("hidden_size", nullptr), {"hidden_size", "found null"});
  ExpectError(with("hidden_size", 1e30), {"hidden_size"});
  ExpectError(with("hidden_size", 18446744073709551615ull), {"hidden_size"});
  ExpectError(with("num_key_value_heads", 3), {"num_key_value_heads", "divisor", "= 8"});
  ExpectError(with("num_attention_heads", 0), {"num_attention_heads", "found 0"});
  ExpectError(with("head_dim", 7), {"head_dim", "even"});
  ExpectError(with("hidden_act", "relu"),
              {"hidden_act", "found \"relu\"", "silu", "gelu_pytorch_tanh"});
  ExpectError(with("rope_theta", 0), {"rope_theta", "found 0"});
  ExpectError(with("rope_scaling", 7), {"rope_scaling", "found 7", "an object"});
  ExpectError(with("attention_bias", "no"), {"attention_bias", "true or false"});
  ExpectError(with("eos_token_id", {-1}), {"eos_token_id", "[-1]"});
  ExpectError(with("rms_norm_eps", -1), {"rms_norm_eps", "found -1"});
  ExpectError(nlohmann::json::array(), {"expected an object"});
}

TEST(ModelConfig, BrokenFiles) {
  const auto error_of = [](const std::string& directory) -> std::string {
    try {
      ModelConfig::Load(directory);
    } catch (const LoadError& error) {
      return error.what();
    }
    return "no error";
  };
  TempDir directory;
  EXPECT_NE(error_of(directory.File("none")).find("expected a directory"), std::string::npos);
  EXPECT_NE(error_of(directory.path()).find("config.json: cannot be opened"), std::string::npos);
  WriteText(directory.File("config.json"), "{\"model_type\": ");
  EXPECT_NE(error_of(directory.path()).find("invalid JSON"), std::string::npos);
  WriteText(directory.File("config.json"), std::string(100000, '['));
  EXPECT_NE(error_of(directory.path()).find("nested deeper"), std::string::npos);
}

TEST(ModelConfig, GenerationConfigWins) {
  TempDir directory;
  nlohmann::json json = Base("llama");
  json["eos_token_id"] = 5;
  WriteText(directory.File("config.json"), json.dump());
  EXPECT_EQ(ModelConfig::Load(directory.path()).eos_token_ids, (std::vector<int32_t>{5}));
  WriteText(directory.File("generation_config.json"), R"({"eos_token_id": [7, 8]})");
  EXPECT_EQ(ModelConfig::Load(directory.path()).eos_token_ids, (std::vector<int32_t>{7, 8}));
}

}  // namespace
}  // namespace palu::testing
