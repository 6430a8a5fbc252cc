// What the scorers of the fast decode kernel see of a head and of staged tokens, and how they load
// numbers of them.
#pragma once

#include "kernels/cuda/decode_codes.cuh"
#include "kernels/cuda/decode_layout.cuh"

namespace palu::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;

// What a scorer needs to know of its head, fixed for the launch.
struct HeadView {
  const SegmentView* segment;  // of the keys
  const bf16* query;           // of its first query head
  int64_t query_stride;        // to the next query head
  int first_row;               // of the head in the group's factor
  int repeat;                  // query heads
  float scale;                 // turns scores into exponents of 2
  int stride;                  // bytes between staged rows
  LatentFormat format;
  int rank, high_offset;  // as in SegmentView

  __device__ const uint8_t* FactorRow(int row) const {
    return static_cast<const uint8_t*>(segment->up) + (first_row + row) * segment->up_stride * 2;
  }
};

// Sixteen staged tokens.
struct UnitView {
  const uint8_t* keys;
  const __half2* scales;
  const uint8_t* angles;
};

// Eight numbers of a factor row from `first` on as they lie, zero past the rank.
__device__ inline uint4 LoadFactorWords(const HeadView& head, int row, int first) {
  if (first >= head.segment->rank) return {};
  return *reinterpret_cast<const uint4*>(head.FactorRow(row) + first * 2);
}

__device__ inline float2 FactorPair(bool bf16_factor, uint32_t word) {
  if (bf16_factor) return {LowBF16(word), HighBF16(word)};
  return __half22float2(*reinterpret_cast<const __half2*>(&word));
}

// Pairs of bf16 as pairs of f16.
__device__ inline uint4 HalvesOf(const uint4& pairs) {
  const auto halves = [](uint32_t pair) { return PackF16Saturated(LowBF16(pair), HighBF16(pair)); };
  return {halves(pairs.x), halves(pairs.y), halves(pairs.z), halves(pairs.w)};
}

// Two bf16 numbers, scaled.
template <bool kF16>
__device__ inline uint32_t ScaledPair(uint32_t pair, float scale) {
  return Pack<kF16>(LowBF16(pair) * scale, HighBF16(pair) * scale);
}

// Eight numbers of one token's key row from `first` on as pairs (see NumberInPair); codes when
// quantized. kMayEnd: the row may end before; what lies behind it can be no number, as bits of fp8.
template <Numbers kNumbers, bool kMayEnd = true>
__device__ inline uint4 LoadKeyPairs(const HeadView& head, const uint8_t* row, int first) {
  if constexpr (IsScaled(kNumbers)) {
    return LoadCodePairs<kNumbers == Numbers::kFour>(row, first, head.format, head.high_offset);
  } else if constexpr (kNumbers == Numbers::kFp8) {
    return !kMayEnd || first < head.rank ? Fp8Pairs(row + first) : uint4{};
  } else {
    return *reinterpret_cast<const uint4*>(row + first * 2);
  }
}

}  // namespace palu::cuda
