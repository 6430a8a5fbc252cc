// How a checkpoint's keys and values are factored and cached: palu_config.json, the Palu authors'
// head_wise_ranks, or nothing (a stock checkpoint: dense).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/engine_config.h"
#include "engine/cache/latent_layout.h"
#include "engine/model/model_config.h"
#include "engine/model/safetensors.h"

namespace palu {

enum class Rotation {
  kNone,
  kHadamard,  // to be done by the server: folded into factors at load, or at run time when dense
  kFolded,    // already in the factors of the file
};

// One projection as the checkpoint describes it; what it leaves open is for CacheOptions to settle.
struct ProjectionPlan {
  bool dense = true;
  int heads_per_group = 1;
  std::vector<int> ranks;  // one per group; dense: heads_per_group * head_dim each
  std::optional<LatentFormat> format;
  std::optional<Rotation> rotation;
};

struct LayerPlan {
  ProjectionPlan key, value;
};

// Reads palu_config.json if the directory has one, else config.json's head_wise_ranks if it has
// those. One entry per layer. Throws LoadError.
std::vector<LayerPlan> LoadPlan(const std::string& directory, const ModelConfig& config);

// The two formats by themselves; file is for messages.
std::vector<LayerPlan> ParsePaluConfig(std::string_view text, const std::string& file,
                                       const ModelConfig& config);
std::vector<LayerPlan> ParseHeadWiseRanks(std::string_view config_json, const std::string& file,
                                          const ModelConfig& config);

// Settles the format and the rotation of every projection. Low-rank latents whose format nobody
// named take the dtype of their VT tensor, dense ones bf16. Throws std::runtime_error naming the
// option when CacheOptions holds an unknown word.
std::vector<LayerSpec> ResolveCache(const std::vector<LayerPlan>& plan, const CacheOptions& options,
                                    const Safetensors& files);

// Whether rows of this format are rotated when nobody says. fp8 gains from it too, but less than a
// rotation at run time is worth, so only latents are, whose factors take it in for nothing.
bool RotatedByDefault(bool dense, LatentFormat format);

// "model.layers.3.self_attn.k_proj"
std::string ProjectionName(int layer, bool key);

}  // namespace palu
