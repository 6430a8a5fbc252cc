// Where each layer's and group's latents lie in a cache block, and at which bits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/latent_format.h"

namespace palu {

// What one projection of one layer caches. Low rank: ranks per group. Dense: one group per
// heads_per_group heads, each of heads_per_group * head_dim numbers.
struct ProjectionSpec {
  bool dense = true;
  LatentFormat format = LatentFormat::kBF16;
  int heads_per_group = 1;
  std::vector<int> ranks;  // one per group
  bool hadamard = false;   // dense: rotate heads at run time; low rank: fold into factors at load
};

struct LayerSpec {
  ProjectionSpec key, value;
};

// Layers whose latents lie together in a block; see GroupLayers.
struct LayerGroup {
  int window_tokens = 0;  // largest of the layers' windows; 0: some see everything
  std::vector<int> layers;
};

// Immutable after construction; thread-safe.
class LatentLayout {
 public:
  // Without groups one holds all layers.
  LatentLayout(const std::vector<LayerSpec>& layers, int block_tokens,
               const std::vector<LayerGroup>& groups = {});

  struct Layer {
    int group = 0;  // of whose blocks the segments are
    std::vector<LatentSegment> key, value;
  };
  const std::vector<Layer>& layers() const { return layers_; }
  int block_tokens() const { return block_tokens_; }
  int num_groups() const { return num_groups_; }
  // Of a block of any group, with scales, zeros and padding.
  int64_t block_bytes() const { return block_bytes_; }
  // Of the formats and places of all rows: caches of different ones share nothing.
  uint64_t Fingerprint() const;
  // Of a token that has its place in every group.
  double bytes_per_token() const {
    return static_cast<double>(block_bytes_) * num_groups_ / block_tokens_;
  }

 private:
  std::vector<Layer> layers_;
  int block_tokens_;
  int num_groups_;
  int64_t block_bytes_ = 0;
};

}  // namespace palu
