#include "engine/cache/latent_cache.h"

#include <algorithm>
#include <chrono>

#include "kernels/check.h"

namespace palu {

LatentCache::LatentCache(Backend* backend, const LatentLayout& layout, int64_t num_blocks,
                         int64_t host_blocks)
    : backend_(backend),
      buffer_(backend->Allocate(static_cast<size_t>(num_blocks * layout.block_bytes()))),
      pool_{static_cast<std::byte*>(buffer_.data()), layout.block_bytes(), layout.block_tokens(),
            num_blocks},
      host_blocks_(host_blocks) {
  if (host_blocks > 0) host_ = backend->AllocateHost(static_cast<size_t>(host_bytes()));
}

void LatentCache::Move(std::span<const BlockMove> moves) {
  using Kind = BlockMove::Kind;
  for (size_t begin = 0, end; begin < moves.size(); begin = end) {
    const Kind kind = moves[begin].kind;
    pieces_.clear();
    for (end = begin; end < moves.size() && moves[end].kind == kind; ++end) {
      const auto [from, to] = std::pair(moves[end].from, moves[end].to);
      PALU_CHECK(from >= 0 && from < (kind == Kind::kToDevice ? host_blocks_ : pool_.num_blocks));
      PALU_CHECK(to >= 0 && to < (kind == Kind::kToHost ? host_blocks_ : pool_.num_blocks));
      if (kind == Kind::kCopy) {
        backend_->CopyOnDevice(pool_.data + to * pool_.block_bytes,
                               pool_.data + from * pool_.block_bytes,
                               static_cast<size_t>(pool_.block_bytes));
      } else {
        pieces_.push_back(kind == Kind::kToHost ? std::pair(from, to) : std::pair(to, from));
      }
    }
    if (kind == Kind::kCopy) continue;
    backend_->CopyPieces({.device = pool_.data,
                          .host = static_cast<std::byte*>(host_.get()),
                          .piece_bytes = pool_.block_bytes,
                          .pieces = pieces_,
                          .to_device = kind == Kind::kToDevice});
  }
}

double LatentCache::MeasureCopySeconds() {
  using Clock = std::chrono::steady_clock;
  constexpr int kMost = 64;
  const auto count =
      static_cast<int32_t>(std::min<int64_t>({kMost, host_blocks_, pool_.num_blocks}));
  if (count == 0) return 0;
  std::vector<BlockMove> moves;
  for (int32_t i = 0; i < count; ++i) moves.push_back({BlockMove::Kind::kToHost, i, i});
  for (int32_t i = 0; i < count; ++i) moves.push_back({BlockMove::Kind::kToDevice, i, i});
  // The first time touches the memory.
  Clock::time_point begin;
  for (int round = 0; round < 2; ++round) {
    begin = Clock::now();
    Move(moves);
    backend_->Synchronize();
  }
  return std::chrono::duration<double>(Clock::now() - begin).count() /
         static_cast<double>(moves.size());
}

}  // namespace palu
