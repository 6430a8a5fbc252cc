#include "engine/model/model_config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "engine/model/json_file.h"
#include "engine/model/rope.h"
#include "engine/status.h"

namespace palu {
namespace {

constexpr int kMaxExtent = 1 << 24;  // hidden size, widths, vocabulary, positions
constexpr int kMaxCount = 1 << 12;   // layers, heads, experts
constexpr double kMaxTheta = 1e12;

int Extent(const JsonObject& object, const std::string& key) {
  return static_cast<int>(object.Int(key, 1, kMaxExtent));
}

Activation ParseActivation(const JsonObject& object, const std::string& key) {
  const std::string name = object.String(key, key == "hidden_act" ? "silu" : "gelu_pytorch_tanh");
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu_pytorch_tanh") return Activation::kGeluTanh;
  object.Fail(key, OneOf({"silu", "swish", "gelu_pytorch_tanh"}));
}

// An id, an array of ids, or nothing.
std::vector<int32_t> TokenIds(const JsonObject& object, const std::string& key) {
  const Json* value = object.Find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) return {static_cast<int32_t>(object.Int(key, 0, kMaxExtent))};
  const auto ids = object.Ints(key, 0, kMaxExtent);
  return {ids.begin(), ids.end()};
}

void ParseShape(const JsonObject& object, ModelConfig* config) {
  config->hidden_size = Extent(object, "hidden_size");
  config->intermediate_size = Extent(object, "intermediate_size");
  config->vocab_size = Extent(object, "vocab_size");
  config->max_position_embeddings = Extent(object, "max_position_embeddings");
  config->num_layers = static_cast<int>(object.Int("num_hidden_layers", 1, kMaxCount));
  config->num_heads = static_cast<int>(object.Int("num_attention_heads", 1, kMaxCount));
  config->num_kv_heads =
      static_cast<int>(object.Int("num_key_value_heads", 1, kMaxCount, config->num_heads));
  if (config->num_heads % config->num_kv_heads != 0) {
    object.Fail("num_key_value_heads",
                "a divisor of num_attention_heads = " + std::to_string(config->num_heads));
  }
  if (!object.Has("head_dim") && config->hidden_size % config->num_heads != 0) {
    object.Fail("head_dim", "head_dim, as num_attention_heads does not divide hidden_size");
  }
  config->head_dim =
      static_cast<int>(object.Int("head_dim", 2, 1024, config->hidden_size / config->num_heads));
  if (config->head_dim % 2 != 0) object.Fail("head_dim", "an even number");
  config->rms_norm_eps = static_cast<float>(object.Number("rms_norm_eps", 0.0, 1.0, 1e-6));
  config->tie_word_embeddings = object.Bool("tie_word_embeddings", false);
  config->attention_scale = static_cast<float>(1.0 / std::sqrt(config->head_dim));
}

int RotaryDim(const JsonObject& object, const std::optional<JsonObject>& rope, int head_dim) {
  const JsonObject& source = rope && rope->Has("partial_rotary_factor") ? *rope : object;
  const double factor = source.Number("partial_rotary_factor", 0.0, 1.0, 1.0);
  const int dim = static_cast<int>(head_dim * factor);
  if (dim < 2 || dim % 2 != 0) {
    source.Fail("partial_rotary_factor",
                "a factor that makes an even part of head_dim = " + std::to_string(head_dim));
  }
  return dim;
}

RopeConfig LayerRope(const JsonObject& object, const std::optional<JsonObject>& rope,
                     const std::string& theta_key, double default_theta,
                     const ModelConfig& config) {
  const JsonObject& source = rope && rope->Has("rope_theta") ? *rope : object;
  const std::string key = &source == &object ? theta_key : "rope_theta";
  const double theta = source.Number(key, 1.0 + 1e-6, kMaxTheta, default_theta);
  return ParseRope(rope, theta, RotaryDim(object, rope, config.head_dim),
                   config.max_position_embeddings);
}

// rope_parameters (new files) or rope_theta and rope_scaling (old ones).
std::optional<JsonObject> RopeObject(const JsonObject& object) {
  return object.Has("rope_parameters") ? object.Object("rope_parameters")
                                       : object.Object("rope_scaling");
}

void ParseSingleRope(const JsonObject& object, ModelConfig* config) {
  config->ropes = {LayerRope(object, RopeObject(object), "rope_theta", 10000.0, *config)};
}

// Gemma 3: index 0 full attention, 1 sliding.
void ParseGemmaRopes(const JsonObject& object, ModelConfig* config) {
  std::optional<JsonObject> full = RopeObject(object), sliding;
  if (full && full->Has("full_attention")) {
    sliding = full->Object("sliding_attention");
    if (!sliding) full->Fail("sliding_attention", "an object");
    full = full->Object("full_attention");
  }
  config->ropes = {LayerRope(object, full, "rope_theta", 1e6, *config),
                   LayerRope(object, sliding, "rope_local_base_freq", 10000.0, *config)};
}

int SlidingWindow(const JsonObject& object, int absent) {
  return static_cast<int>(object.Int("sliding_window", 1, INT32_MAX, absent));
}

// layer_types: full_attention or sliding_attention of every layer.
void ParseLayerTypes(const JsonObject& object, int window, int sliding_rope, ModelConfig* config) {
  const Json& types = object.Array("layer_types");
  if (types.size() != config->layers.size()) {
    object.Fail("layer_types", std::to_string(config->layers.size()) + " entries");
  }
  for (size_t i = 0; i < types.size(); ++i) {
    const bool sliding = types[i] == "sliding_attention";
    if (!sliding && types[i] != "full_attention") {
      object.Fail("layer_types", "only full_attention and sliding_attention");
    }
    if (!sliding) continue;
    if (window == 0) object.Fail("sliding_window", "an integer, as layer_types has windows");
    config->layers[i].window = window;
    config->layers[i].rope = sliding_rope;
  }
}

void ParseQwenWindows(const JsonObject& object, ModelConfig* config) {
  const bool use = object.Bool("use_sliding_window", false);
  const int window = use ? SlidingWindow(object, 0) : 0;
  if (object.Has("layer_types")) {
    ParseLayerTypes(object, window, 0, config);
    return;
  }
  if (window == 0) return;
  const auto first = static_cast<size_t>(object.Int("max_window_layers", 0, kMaxCount, 28));
  for (size_t i = first; i < config->layers.size(); ++i) config->layers[i].window = window;
}

void ParseGemma(const JsonObject& object, ModelConfig* config) {
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    if (object.Has(key)) object.Fail(key, "null: soft-capping is not supported");
  }
  if (object.Bool("use_bidirectional_attention", false)) {
    object.Fail("use_bidirectional_attention", "false");
  }
  config->activation = ParseActivation(object, "hidden_activation");
  config->rms_norm_offset = 1.0f;
  config->qk_norm = config->sandwich_norms = true;
  config->tie_word_embeddings = object.Bool("tie_word_embeddings", true);
  config->embedding_scale = std::sqrt(static_cast<float>(config->hidden_size));
  config->attention_scale =
      static_cast<float>(1.0 / std::sqrt(object.Number("query_pre_attn_scalar", 1e-3, 1e6, 256.0)));
  config->qkv_bias = config->output_bias = object.Bool("attention_bias", false);
  ParseGemmaRopes(object, config);
  const int window = SlidingWindow(object, 4096);
  if (object.Has("layer_types")) {
    ParseLayerTypes(object, window, 1, config);
    return;
  }
  const char* key =
      object.Has("_sliding_window_pattern") ? "_sliding_window_pattern" : "sliding_window_pattern";
  const auto pattern = static_cast<size_t>(object.Int(key, 1, kMaxCount, 6));
  for (size_t i = 0; i < config->layers.size(); ++i) {
    if ((i + 1) % pattern != 0) config->layers[i] = {.window = window, .rope = 1};
  }
}

void ParseExperts(const JsonObject& object, ModelConfig* config) {
  const char* key = object.Has("num_local_experts") ? "num_local_experts" : "num_experts";
  config->num_experts = static_cast<int>(object.Int(key, 1, kMaxCount));
  config->experts_per_token =
      static_cast<int>(object.Int("num_experts_per_tok", 1, config->num_experts));
}

void ParseQwen3Moe(const JsonObject& object, ModelConfig* config) {
  ParseExperts(object, config);
  config->moe_intermediate_size = Extent(object, "moe_intermediate_size");
  config->normalize_expert_weights = object.Bool("norm_topk_prob", false);
  const auto step = static_cast<size_t>(object.Int("decoder_sparse_step", 1, kMaxCount, 1));
  std::vector<int64_t> dense;
  if (object.Has("mlp_only_layers")) {
    dense = object.Ints("mlp_only_layers", 0, config->num_layers - 1);
  }
  for (size_t i = 0; i < config->layers.size(); ++i) {
    const bool listed = std::find(dense.begin(), dense.end(), i) != dense.end();
    config->layers[i].moe = !listed && (i + 1) % step == 0;
  }
}

// What differs from family to family; the shape and the activation are read already.
void ParseFamily(const JsonObject& object, const std::string& family, ModelConfig* config) {
  if (family == "gemma3_text") return ParseGemma(object, config);
  config->activation = ParseActivation(object, "hidden_act");
  ParseSingleRope(object, config);
  int window = 0;
  if (family == "llama") {
    config->qkv_bias = config->output_bias = object.Bool("attention_bias", false);
    config->mlp_bias = object.Bool("mlp_bias", false);
  } else if (family == "mistral" || family == "mixtral" || family == "phi3") {
    window = SlidingWindow(object, 0);
    config->fused_qkv = config->fused_gate_up = family == "phi3";
  } else if (family == "qwen2") {
    config->qkv_bias = true;
    ParseQwenWindows(object, config);
  } else {  // qwen3, qwen3_moe
    config->qk_norm = true;
    config->qkv_bias = config->output_bias = object.Bool("attention_bias", false);
    ParseQwenWindows(object, config);
  }
  if (window > 0) {
    for (LayerConfig& layer : config->layers) layer.window = window;
  }
  if (family == "mixtral") {
    ParseExperts(object, config);
    config->moe_intermediate_size = config->intermediate_size;
    for (LayerConfig& layer : config->layers) layer.moe = true;
  } else if (family == "qwen3_moe") {
    ParseQwen3Moe(object, config);
  }
}

std::string Family(const JsonObject& object, const std::string& model_type) {
  for (const char* family :
       {"llama", "mistral", "qwen2", "qwen3", "phi3", "mixtral", "qwen3_moe", "gemma3_text"}) {
    if (model_type == family) return family;
  }
  if (model_type == "gemma3") return "gemma3_text";
  if (model_type == "palullama") return "llama";
  if (model_type == "palumistral") return "mistral";
  if (model_type == "paluqwen2") return "qwen2";
  object.Fail("model_type",
              OneOf({"llama", "mistral", "qwen2", "qwen3", "phi3", "mixtral", "qwen3_moe",
                     "gemma3_text", "gemma3", "palullama", "palumistral", "paluqwen2"}));
}

// Multimodal Gemma 3 leaves out of text_config what equals the defaults of its class.
Json WithGemmaDefaults(const Json& text_config) {
  Json merged = {{"vocab_size", 262208},      {"hidden_size", 2304},
                 {"intermediate_size", 9216}, {"num_hidden_layers", 26},
                 {"num_attention_heads", 8},  {"num_key_value_heads", 4},
                 {"head_dim", 256},           {"max_position_embeddings", 131072}};
  merged.update(text_config);
  return merged;
}

}  // namespace

int ModelConfig::max_context() const {
  double longest = max_position_embeddings;
  for (const RopeConfig& rope : ropes) {
    if (rope.scaling == RopeConfig::Scaling::kYarn) {
      longest = std::max(longest, rope.original_max_positions * rope.factor);
    }
  }
  return static_cast<int>(std::min<double>(longest, kMaxExtent));
}

ModelConfig ModelConfig::Parse(std::string_view text, const std::string& file) {
  const Json root = ParseJson(text, file);
  const JsonObject top(root, file);
  ModelConfig config;
  config.model_type = top.String("model_type");
  const std::string family = Family(top, config.model_type);
  Json merged;
  std::optional<JsonObject> object = top;
  if (config.model_type == "gemma3") {
    if (!top.Object("text_config")) top.Fail("text_config", "an object");
    merged = WithGemmaDefaults(root.at("text_config"));
    object = JsonObject(merged, file, "text_config");
  }
  ParseShape(*object, &config);
  config.layers.resize(static_cast<size_t>(config.num_layers));
  ParseFamily(*object, family, &config);
  config.bos_token_ids = TokenIds(top.Has("bos_token_id") ? top : *object, "bos_token_id");
  config.eos_token_ids = TokenIds(top.Has("eos_token_id") ? top : *object, "eos_token_id");
  return config;
}

ModelConfig ModelConfig::Load(const std::string& directory) {
  if (!std::filesystem::is_directory(directory)) {
    throw LoadError(directory + ": expected a directory with config.json and *.safetensors");
  }
  const std::string file = directory + "/config.json";
  ModelConfig config = Parse(ReadFile(file), file);
  const std::string generation = directory + "/generation_config.json";
  if (std::filesystem::exists(generation)) {
    const Json root = ParseJson(ReadFile(generation), generation);
    const JsonObject object(root, generation);
    if (object.Has("bos_token_id")) config.bos_token_ids = TokenIds(object, "bos_token_id");
    if (object.Has("eos_token_id")) config.eos_token_ids = TokenIds(object, "eos_token_id");
  }
  return config;
}

}  // namespace palu
