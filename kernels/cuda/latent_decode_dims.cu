// The fast decode kernel for head_dim 96 and 256: dense caches, and at 96 also low rank with one
// query head per KV head.
#include "kernels/cuda/decode_launch.cuh"

namespace palu::cuda {
namespace {

template <int kHeadDim, Numbers kNumbers>
bool LaunchDense(Context& context, AttentionParams& p) {
  constexpr auto kDense = KeyKind::kDense;
  constexpr int kTiles = kHeadDim / 16;
  return p.q_heads == p.kv_heads
             ? Launch<DecodeShape<kDense, kHeadDim, 0, kTiles, kNumbers, true>>(context, p)
             : Launch<DecodeShape<kDense, kHeadDim, 0, kTiles, kNumbers, false>>(context, p);
}

template <Numbers kNumbers>
bool LaunchHeld(Context& context, AttentionParams& p) {
  if (p.key.dense) {
    return p.head_dim == 96 ? LaunchDense<96, kNumbers>(context, p)
                            : LaunchDense<256, kNumbers>(context, p);
  }
  if (p.head_dim != 96 || p.q_heads != p.kv_heads) return false;
  return LaunchLowRank<96, kNumbers, true>(context, p);
}

}  // namespace

bool LaunchDecodeDims(Context& context, AttentionParams& p) {
  const LatentFormat format = p.key.groups[0].format;
  if (format == LatentFormat::kFp8) return LaunchHeld<Numbers::kFp8>(context, p);
  return IsQuantized(format) ? LaunchHeld<Numbers::kCodes>(context, p)
                             : LaunchHeld<Numbers::kBF16>(context, p);
}

}  // namespace palu::cuda
