// Launches of the fast decode kernel; one source file per way of holding numbers includes this, so
// that they compile side by side.
#pragma once

#include "kernels/cuda/latent_decode.cuh"

namespace palu::cuda {

// What an instance of the kernel needs of shared memory.
struct DecodeInstance {
  int blocks;        // of 32 numbers of a key row
  int factor_bytes;  // of one head
  int angle_stride;  // 0: none
  int most_units;    // of a stage
  int units;         // that a warp takes at once
};

// As many heads per block as there are, and stages as long as four of them fit. No stages: nothing
// fits.
DecodeLayout LayoutFor(const AttentionParams& p, const DecodeInstance& instance, size_t limit,
                       size_t* bytes);

// As many splits as fill the device in whole waves, none shorter than a stage.
int SplitsFor(const Context& context, const AttentionParams& p, int chunks, int stage_tokens);

// False when no instance serves the ranks or nothing fits into shared memory.
bool LaunchDecodeBF16(Context& context, AttentionParams& p);
bool LaunchDecodeFour(Context& context, AttentionParams& p);
bool LaunchDecodeCodes(Context& context, AttentionParams& p);
bool LaunchDecodeFp8(Context& context, AttentionParams& p);
bool LaunchDecodeDims(Context& context, AttentionParams& p);

template <typename Shape>
bool Launch(Context& context, AttentionParams& p) {
  using Scorer = typename Shape::Scorer;
  const DecodeInstance instance{
      Shape::kKeyBlocks, Scorer::kFactorBytes,
      Shape::kLowRank ? kAngleStride<Shape::kHeadDim, Scorer::kByRows> : 0, Shape::kMostUnits,
      Shape::kUnits};
  size_t bytes = 0;
  const DecodeLayout layout = LayoutFor(p, instance, context.max_shared_bytes, &bytes);
  if (layout.stages == 0 || layout.value_tiles > Shape::kValueTiles) return false;
  if (Shape::kExactTiles && layout.value_tiles != Shape::kValueTiles) return false;
  const int chunks = static_cast<int>(CeilDiv(p.kv_heads, layout.heads));
  const int splits = SplitsFor(context, p, chunks, layout.units * kDecodeUnit);
  p.splits = splits * layout.streams;
  const int rank = p.value.dense ? p.head_dim : p.value.groups[0].rank;
  p.partial_stride = static_cast<int>(CeilDiv(rank, 4)) * 4 + 4;
  const size_t partial =
      static_cast<size_t>(p.sequences) * p.q_heads * p.splits * p.partial_stride * sizeof(float);
  if (partial > kPartialBytes && splits > 1) return false;
  p.partial = static_cast<float*>(context.Scratch(partial));
  const auto kernel = DecodeKernel<Shape>;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "latent_decode");
  LaunchEarly(context, kernel, dim3(splits, chunks, p.sequences), kDecodeThreads, bytes,
              "latent_decode", p, layout);
  LaunchCombine(context, p);
  return true;
}

template <int kHeadDim, Numbers kNumbers, bool kSingle>
bool LaunchLowRank(Context& context, AttentionParams& p) {
  constexpr auto kLow = KeyKind::kLowRank;
  const int key = p.key.groups[0].rank;
  const int value = p.value.groups[0].rank;
  if (key > 64) return Launch<DecodeShape<kLow, kHeadDim, 4, 16, kNumbers, kSingle>>(context, p);
  if (key > 32) return Launch<DecodeShape<kLow, kHeadDim, 2, 16, kNumbers, kSingle>>(context, p);
  if (value > 128) return Launch<DecodeShape<kLow, kHeadDim, 1, 16, kNumbers, kSingle>>(context, p);
  // With bf16 rows this takes more registers than there are (50.4 us instead of 48.4, 8 KV heads).
  if constexpr (kNumbers != Numbers::kBF16) {
    constexpr int kTiles = kExactLowRankTiles;
    if (value > 80 && value <= 96) {
      return Launch<DecodeShape<kLow, kHeadDim, 1, kTiles, kNumbers, kSingle>>(context, p);
    }
  }
  return Launch<DecodeShape<kLow, kHeadDim, 1, 8, kNumbers, kSingle>>(context, p);
}

template <int kHeadDim, Numbers kNumbers>
bool LaunchFor(Context& context, AttentionParams& p) {
  const bool single = p.q_heads == p.kv_heads;
  if (p.key.dense) {
    constexpr int kTiles = kHeadDim / 16;
    constexpr auto kDense = KeyKind::kDense;
    return single ? Launch<DecodeShape<kDense, kHeadDim, 0, kTiles, kNumbers, true>>(context, p)
                  : Launch<DecodeShape<kDense, kHeadDim, 0, kTiles, kNumbers, false>>(context, p);
  }
  return single ? LaunchLowRank<kHeadDim, kNumbers, true>(context, p)
                : LaunchLowRank<kHeadDim, kNumbers, false>(context, p);
}

}  // namespace palu::cuda
