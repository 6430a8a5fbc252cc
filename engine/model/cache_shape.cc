#include "engine/model/cache_shape.h"

#include <algorithm>
#include <utility>

#include "engine/cache/layer_groups.h"

namespace palu {

double CacheShape::bytes_per_token_beyond_windows() const {
  const auto lasting = std::count(demand.windows.begin(), demand.windows.end(), 0);
  return layout.bytes_per_token() * static_cast<double>(lasting) / demand.num_groups();
}

CacheShape ShapeCache(const ModelConfig& config, const std::vector<LayerSpec>& specs,
                      const CacheOptions& options, int max_context, int step_tokens) {
  std::vector<int> windows;
  for (const LayerConfig& layer : config.layers) windows.push_back(layer.window);
  std::vector<LayerGroup> groups = {OneGroup(windows)};
  if (options.group_layers) {
    groups = GroupLayers(specs, windows, options.block_tokens, max_context, step_tokens);
  } else {
    groups[0].window_tokens = 0;
  }
  BlockDemand demand{
      .block_tokens = options.block_tokens, .windows = {}, .chunk_tokens = step_tokens};
  for (const LayerGroup& group : groups) demand.windows.push_back(group.window_tokens);
  return {LatentLayout(specs, options.block_tokens, groups), std::move(demand)};
}

}  // namespace palu
