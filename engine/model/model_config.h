// config.json of a Hugging Face checkpoint, reduced to what the forward pass needs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.h"

namespace palu {

// RoPE of one kind of layer: theta and the scaling rule applied to its inverse frequencies.
struct RopeConfig {
  enum class Scaling { kNone, kLinear, kLlama3, kYarn };
  double theta = 10000.0;
  Scaling scaling = Scaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0, beta_slow = 1.0;              // yarn
  double attention_factor = 0.0;                         // yarn; 0: 0.1 ln(factor) + 1
  bool truncate = true;                                  // yarn
  int original_max_positions = 0;                        // llama3, yarn
  int rotary_dim = 0;                                    // head_dim * partial_rotary_factor
};

struct LayerConfig {
  int window = 0;  // 0: full attention
  int rope = 0;    // index into ModelConfig::ropes
  bool moe = false;
};

struct ModelConfig {
  std::string model_type;  // as in the file: llama, palullama, …
  int hidden_size = 0, num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int intermediate_size = 0, vocab_size = 0, max_position_embeddings = 0;
  float rms_norm_eps = 1e-6f, rms_norm_offset = 0.0f;
  float embedding_scale = 1.0f, attention_scale = 0.0f;
  Activation activation = Activation::kSilu;
  bool tie_word_embeddings = false;
  bool qk_norm = false;                           // RMS norm of every q and k head before RoPE
  bool sandwich_norms = false;                    // Gemma 3: norms after attention and MLP too
  bool fused_qkv = false, fused_gate_up = false;  // Phi-3
  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  int num_experts = 0, experts_per_token = 0, moe_intermediate_size = 0;
  bool normalize_expert_weights = true;
  std::vector<RopeConfig> ropes;
  std::vector<LayerConfig> layers;
  std::vector<int32_t> bos_token_ids, eos_token_ids;  // generation_config.json over config.json

  // Longest context that the model was made for, in tokens: max_position_embeddings, or what YaRN
  // stretches it to.
  int max_context() const;

  // Throws LoadError naming file, key, value found and value expected.
  static ModelConfig Load(const std::string& directory);
  // The same from the text of config.json; file is for messages.
  static ModelConfig Parse(std::string_view text, const std::string& file);
};

}  // namespace palu
