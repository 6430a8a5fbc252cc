#include "engine/cache/latent_layout.h"

#include <algorithm>

#include "kernels/check.h"

namespace palu {
namespace {

int64_t AlignPlane(int64_t bytes) {
  return (bytes + kPlaneAlignment - 1) / kPlaneAlignment * kPlaneAlignment;
}

std::vector<LatentSegment> Place(const ProjectionSpec& spec, int block_tokens, int64_t* end) {
  std::vector<LatentSegment> segments;
  for (const int rank : spec.ranks) {
    LatentSegment segment;
    segment.format = spec.format;
    segment.rank = rank;
    segment.row_bytes = RowBytes(spec.format, rank);
    segment.codes_offset = *end;
    *end = AlignPlane(*end + segment.row_bytes * block_tokens);
    if (IsQuantized(spec.format)) {
      segment.scales_offset = *end;
      *end = AlignPlane(*end + int64_t{kScaleBytes} * block_tokens);
    }
    segments.push_back(segment);
  }
  return segments;
}

}  // namespace

LatentLayout::LatentLayout(const std::vector<LayerSpec>& layers, int block_tokens,
                           const std::vector<LayerGroup>& groups)
    : layers_(layers.size()),
      block_tokens_(block_tokens),
      num_groups_(std::max(1, static_cast<int>(groups.size()))) {
  PALU_CHECK(block_tokens > 0);
  for (size_t group = 0; group < groups.size(); ++group) {
    for (const int layer : groups[group].layers) layers_[layer].group = static_cast<int>(group);
  }
  std::vector<int64_t> ends(num_groups_, 0);
  for (size_t i = 0; i < layers.size(); ++i) {
    int64_t* end = &ends[layers_[i].group];
    layers_[i].key = Place(layers[i].key, block_tokens, end);
    layers_[i].value = Place(layers[i].value, block_tokens, end);
  }
  block_bytes_ = *std::max_element(ends.begin(), ends.end());
}

uint64_t LatentLayout::Fingerprint() const {
  uint64_t hash = 0xcbf29ce484222325ull;
  const auto mix = [&hash](int64_t value) {
    hash = (hash ^ static_cast<uint64_t>(value)) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 29;
  };
  mix(block_tokens_);
  for (const Layer& layer : layers_) {
    mix(layer.group);
    for (const auto* segments : {&layer.key, &layer.value}) {
      for (const LatentSegment& segment : *segments) {
        mix(static_cast<int64_t>(segment.format));
        mix(segment.rank);
        mix(segment.codes_offset);
      }
    }
  }
  return hash;
}

}  // namespace palu
