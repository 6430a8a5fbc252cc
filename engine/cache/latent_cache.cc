#include "engine/cache/latent_cache.h"

#include "kernels/check.h"

namespace palu {

LatentCache::LatentCache(Backend* backend, const LatentLayout& layout, int64_t num_blocks)
    : backend_(backend),
      buffer_(backend->Allocate(static_cast<size_t>(num_blocks * layout.block_bytes()))),
      pool_{static_cast<std::byte*>(buffer_.data()), layout.block_bytes(), layout.block_tokens(),
            num_blocks} {}

void LatentCache::CopyBlocks(std::span<const std::pair<int32_t, int32_t>> copies) {
  for (const auto& [from, to] : copies) {
    PALU_CHECK(from >= 0 && from < pool_.num_blocks && to >= 0 && to < pool_.num_blocks);
    backend_->CopyOnDevice(pool_.data + to * pool_.block_bytes,
                           pool_.data + from * pool_.block_bytes,
                           static_cast<size_t>(pool_.block_bytes));
  }
}

}  // namespace palu
