#include "engine/cache/latent_layout.h"

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

LatentLayout::LatentLayout(const std::vector<LayerSpec>& layers, int block_tokens)
    : block_tokens_(block_tokens) {
  PALU_CHECK(block_tokens > 0);
  for (const LayerSpec& spec : layers) {
    Layer layer;
    layer.key = Place(spec.key, block_tokens, &block_bytes_);
    layer.value = Place(spec.value, block_tokens, &block_bytes_);
    layers_.push_back(std::move(layer));
  }
}

}  // namespace palu
