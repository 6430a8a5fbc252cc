// The bytes of the latent cache.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/cache/block_move.h"
#include "engine/cache/latent_layout.h"
#include "kernels/backend.h"

namespace palu {

// Owns the pool of blocks on one backend and the slots of the host tier; which block belongs to
// whom is not its business. Used by one thread at a time; the backend must outlive it.
class LatentCache {
 public:
  // Allocates num_blocks blocks and host_blocks slots. Throws std::bad_alloc.
  LatentCache(Backend* backend, const LatentLayout& layout, int64_t num_blocks,
              int64_t host_blocks = 0);

  // Makes the moves in order. The device may still be at it when this returns; ops come after.
  void Move(std::span<const BlockMove> moves);
  // Time of one block's way to the host or back; 0 without a host tier. Overwrites the first blocks
  // of both, so that it is to be called before they are used.
  double MeasureCopySeconds();

  const LatentPool& pool() const { return pool_; }
  int64_t bytes() const { return static_cast<int64_t>(buffer_.bytes()); }
  int64_t host_bytes() const { return host_blocks_ * pool_.block_bytes; }

 private:
  Backend* backend_;
  Buffer buffer_;
  LatentPool pool_;
  int64_t host_blocks_;
  std::shared_ptr<void> host_;
  std::vector<std::pair<int32_t, int32_t>> pieces_;  // of the run of moves under way
};

}  // namespace palu
