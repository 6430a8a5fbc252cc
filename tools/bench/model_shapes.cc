#include "tools/bench/model_shapes.h"

#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>

#include "engine/model/json_file.h"
#include "engine/status.h"

namespace palu::bench {
namespace {

// As in the models' config.json.
struct ModelShape {
  const char* name;
  const char* model_type;
  int hidden, layers, heads, kv_heads, head_dim, intermediate, vocabulary, context;
  double theta;
  bool tied;
};

constexpr ModelShape kShapes[] = {
    {"llama-2-7b", "llama", 4096, 32, 32, 32, 128, 11008, 32000, 4096, 1e4, false},
    {"llama-2-13b", "llama", 5120, 40, 40, 40, 128, 13824, 32000, 4096, 1e4, false},
    {"llama-3-8b", "llama", 4096, 32, 32, 8, 128, 14336, 128256, 131072, 5e5, false},
    {"llama-3-70b", "llama", 8192, 80, 64, 8, 128, 28672, 128256, 131072, 5e5, false},
    {"llama-1b", "llama", 2048, 16, 32, 8, 64, 8192, 128256, 131072, 5e5, true},
    {"llama-3b", "llama", 3072, 28, 24, 8, 128, 8192, 128256, 131072, 5e5, true},
    {"mistral-7b", "mistral", 4096, 32, 32, 8, 128, 14336, 32768, 32768, 1e6, false},
    {"qwen2.5-0.5b", "qwen2", 896, 24, 14, 2, 64, 4864, 151936, 32768, 1e6, true},
    {"qwen2.5-7b", "qwen2", 3584, 28, 28, 4, 128, 18944, 152064, 32768, 1e6, false},
    {"qwen3-8b", "qwen3", 4096, 36, 32, 8, 128, 12288, 151936, 40960, 1e6, false},
};

std::string ConfigJson(const ModelShape& shape) {
  return nlohmann::json{{"model_type", shape.model_type},
                        {"hidden_size", shape.hidden},
                        {"num_hidden_layers", shape.layers},
                        {"num_attention_heads", shape.heads},
                        {"num_key_value_heads", shape.kv_heads},
                        {"head_dim", shape.head_dim},
                        {"intermediate_size", shape.intermediate},
                        {"vocab_size", shape.vocabulary},
                        {"max_position_embeddings", shape.context},
                        {"rope_theta", shape.theta},
                        {"rms_norm_eps", 1e-5},
                        {"hidden_act", "silu"},
                        {"tie_word_embeddings", shape.tied},
                        {"bos_token_id", 1},
                        {"eos_token_id", 2}}
      .dump();
}

}  // namespace

std::string ShapeNames() {
  std::string names;
  for (const ModelShape& shape : kShapes) {
    names += (names.empty() ? "" : ", ") + std::string(shape.name);
  }
  return names;
}

DummyModel LoadShape(const std::string& name) {
  for (const ModelShape& shape : kShapes) {
    if (name == shape.name) return {name, ConfigJson(shape), {}};
  }
  std::filesystem::path path = name;
  if (std::filesystem::is_directory(path)) path /= "config.json";
  if (std::filesystem::is_regular_file(path)) return {path.string(), ReadFile(path.string()), {}};
  throw LoadError("--dummy-weights: found \"" + name +
                  "\", expected the path of a config.json or " + "one of " + ShapeNames());
}

}  // namespace palu::bench
