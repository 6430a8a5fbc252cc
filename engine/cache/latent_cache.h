// The bytes of the latent cache.
#pragma once

#include <cstdint>
#include <span>
#include <utility>

#include "engine/cache/latent_layout.h"
#include "kernels/backend.h"

namespace palu {

// Owns the pool of blocks on one backend; which block belongs to whom is not its business. Used by
// the engine thread only; the backend must outlive it.
class LatentCache {
 public:
  // Allocates num_blocks blocks. Throws std::bad_alloc.
  LatentCache(Backend* backend, const LatentLayout& layout, int64_t num_blocks);

  // Copies whole blocks, in order: (from, to).
  void CopyBlocks(std::span<const std::pair<int32_t, int32_t>> copies);

  const LatentPool& pool() const { return pool_; }
  int64_t bytes() const { return static_cast<int64_t>(buffer_.bytes()); }

 private:
  Backend* backend_;
  Buffer buffer_;
  LatentPool pool_;
};

}  // namespace palu
