// What a model's cache consists of.
#pragma once

#include <vector>

#include "config/engine_config.h"
#include "engine/cache/block_demand.h"
#include "engine/cache/latent_layout.h"
#include "engine/model/model_config.h"

namespace palu {

struct CacheShape {
  LatentLayout layout;
  BlockDemand demand;

  // Bytes that each further token of a sequence takes once it has outgrown the sliding windows.
  double bytes_per_token_beyond_windows() const;
};

// max_context: longest sequence; step_tokens: engine.step_tokens.
CacheShape ShapeCache(const ModelConfig& config, const std::vector<LayerSpec>& specs,
                      const CacheOptions& options, int max_context, int step_tokens);

}  // namespace palu
