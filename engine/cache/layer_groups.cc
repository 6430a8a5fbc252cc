#include "engine/cache/layer_groups.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>

namespace palu {
namespace {

// Each group costs a block table in every step.
constexpr int kMostGroups = 8;
// What padding may add to the bytes of a token that every layer still sees.
constexpr double kMostPadding = 1.25;

// Neighbours share a group until its bytes are used up.
std::vector<LayerGroup> Pack(const std::vector<int>& layers, const std::vector<int64_t>& bytes,
                             int64_t group_bytes, int window) {
  std::vector<LayerGroup> groups;
  int64_t left = 0;
  for (const int layer : layers) {
    if (groups.empty() || bytes[layer] > left) {
      groups.push_back({window, {}});
      left = group_bytes;
    }
    groups.back().layers.push_back(layer);
    left -= bytes[layer];
  }
  return groups;
}

// The bytes that groups may have: those of every run of neighbours.
void AddRuns(const std::vector<int>& layers, const std::vector<int64_t>& bytes,
             std::set<int64_t>* sums) {
  for (size_t begin = 0; begin < layers.size(); ++begin) {
    int64_t sum = 0;
    for (size_t end = begin; end < layers.size(); ++end) sums->insert(sum += bytes[layers[end]]);
  }
}

int64_t LargestOf(const std::vector<LayerGroup>& groups, const std::vector<int64_t>& bytes) {
  int64_t largest = 0;
  for (const LayerGroup& group : groups) {
    int64_t sum = 0;
    for (const int layer : group.layers) sum += bytes[layer];
    largest = std::max(largest, sum);
  }
  return largest;
}

int64_t BlocksOf(const std::vector<LayerGroup>& groups, int block_tokens, int length,
                 int chunk_tokens) {
  BlockDemand demand{.block_tokens = block_tokens, .windows = {}, .chunk_tokens = chunk_tokens};
  for (const LayerGroup& group : groups) demand.windows.push_back(group.window_tokens);
  return demand.BlocksOf(length);
}

}  // namespace

LayerGroup OneGroup(const std::vector<int>& windows) {
  LayerGroup group;
  for (size_t layer = 0; layer < windows.size(); ++layer) {
    group.layers.push_back(static_cast<int>(layer));
  }
  if (!windows.empty() && std::find(windows.begin(), windows.end(), 0) == windows.end()) {
    group.window_tokens = *std::max_element(windows.begin(), windows.end());
  }
  return group;
}

std::vector<LayerGroup> GroupLayers(const std::vector<LayerSpec>& layers,
                                    const std::vector<int>& windows, int block_tokens, int length,
                                    int chunk_tokens) {
  std::vector<LayerGroup> best = {OneGroup(windows)};
  std::vector<int> full, sliding;
  std::vector<int64_t> bytes;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    (windows[layer] == 0 ? full : sliding).push_back(static_cast<int>(layer));
    bytes.push_back(LatentLayout({layers[layer]}, block_tokens).block_bytes());
  }
  if (full.empty() || sliding.empty()) return best;
  const int window = *std::max_element(windows.begin(), windows.end());
  const int64_t all_bytes = LargestOf(best, bytes);
  int64_t best_bytes = all_bytes * BlocksOf(best, block_tokens, length, chunk_tokens);
  std::set<int64_t> sizes;
  AddRuns(full, bytes, &sizes);
  AddRuns(sliding, bytes, &sizes);
  const int64_t largest_layer = *std::max_element(bytes.begin(), bytes.end());
  for (auto size = sizes.lower_bound(largest_layer); size != sizes.end(); ++size) {
    std::vector<LayerGroup> groups = Pack(full, bytes, *size, 0);
    for (LayerGroup& group : Pack(sliding, bytes, *size, window)) {
      groups.push_back(std::move(group));
    }
    const auto count = static_cast<int64_t>(groups.size());
    const int64_t block_bytes = LargestOf(groups, bytes);
    const double padded = static_cast<double>(block_bytes * count);
    if (count > kMostGroups || padded > kMostPadding * static_cast<double>(all_bytes)) continue;
    const int64_t taken = block_bytes * BlocksOf(groups, block_tokens, length, chunk_tokens);
    if (taken >= best_bytes) continue;
    best_bytes = taken;
    best = std::move(groups);
  }
  return best;
}

}  // namespace palu
