// One warp's work on sixteen cached tokens in the fast decode kernel
// (docs/kernels/latent_decode.md). Lane (g, q) = (lane / 4, lane % 4) throughout.
#pragma once

#include "kernels/cuda/mma.cuh"
#include "kernels/latent_format.h"

namespace palu::cuda {

// ---- Keys: left operands of the rebuild from quantized rows. A lane holds numbers q * kRank / 4
// .. of tokens g and g + 8, eight at a time: (0,1) (2,3) for one product over sixteen numbers,
// (4,5) (6,7) for the next.

// Eight codes from number `first` on, one in each nibble or byte position: see CodePairF16.
template <int kBits>
__device__ inline uint2 EightCodes(const uint8_t* row, int first, int high_offset) {
  if constexpr (kBits == 8) {
    return *reinterpret_cast<const uint2*>(row + first);
  } else if constexpr (kBits == 4) {
    return {*reinterpret_cast<const uint32_t*>(row + first / 2), 0};
  } else {
    uint32_t spread = *reinterpret_cast<const uint16_t*>(row + first / 4);
    spread = (spread | spread << 8) & 0x00ff00ffu;
    spread = (spread | spread << 4) & 0x0f0f0f0fu;
    spread = (spread | spread << 2) & 0x33333333u;
    if constexpr (kBits == 2) return {spread, 0};
    uint32_t top = row[high_offset + first / 8];
    top = (top | top << 12) & 0x000f000fu;
    top = (top | top << 6) & 0x03030303u;
    top = (top | top << 3) & 0x11111111u;
    return {spread | top << 2, 0};
  }
}

// scale * code + zero of codes 2i and 2i + 1. f16 1024 has a unit in the last place of 1.
template <int kBits>
__device__ inline uint32_t CodePairF16(uint2 codes, int i, __half2 scale, __half2 zero) {
  uint32_t bits;
  if constexpr (kBits == 8) {
    bits = __byte_perm(i < 2 ? codes.x : codes.y, 0x64646464u, i % 2 == 0 ? 0x4140 : 0x4342);
  } else {
    const uint32_t byte = codes.x >> 8 * i;
    bits = (byte & 15u) | (byte & 0xf0u) << 12 | 0x64006400u;
  }
  const __half2 code =
      __hsub2(*reinterpret_cast<const __half2*>(&bits), __half2half2(__float2half(1024.0f)));
  const __half2 value = __hfma2(code, scale, zero);
  return *reinterpret_cast<const uint32_t*>(&value);
}

template <int kBits>
__device__ inline uint4 EightNumbers(const uint8_t* row, int first, int high_offset,
                                     __half2 scale_zero) {
  const uint2 codes = EightCodes<kBits>(row, first, high_offset);
  const __half2 scale = __low2half2(scale_zero);
  const __half2 zero = __high2half2(scale_zero);
  return {CodePairF16<kBits>(codes, 0, scale, zero), CodePairF16<kBits>(codes, 1, scale, zero),
          CodePairF16<kBits>(codes, 2, scale, zero), CodePairF16<kBits>(codes, 3, scale, zero)};
}

// Eight latent numbers as f16.
__device__ inline uint4 LoadEight(const uint8_t* row, int first, LatentFormat format,
                                  int high_offset, __half2 scale_zero) {
  switch (format) {
    case LatentFormat::kInt8:
      return EightNumbers<8>(row, first, high_offset, scale_zero);
    case LatentFormat::kInt4:
      return EightNumbers<4>(row, first, high_offset, scale_zero);
    case LatentFormat::kInt3:
      return EightNumbers<3>(row, first, high_offset, scale_zero);
    default:
      return EightNumbers<2>(row, first, high_offset, scale_zero);
  }
}

// Turns x1 + i x2 by the angles: y1 = x1 c - x2 s, y2 = x2 c + x1 s.
__device__ inline void Rotate(__half2 x1, __half2 x2, __half2 c, __half2 s, uint32_t* y1,
                              uint32_t* y2) {
  const __half2 a = __hfma2(x1, c, __hneg2(__hmul2(x2, s)));
  const __half2 b = __hfma2(x2, c, __hmul2(x1, s));
  *y1 = *reinterpret_cast<const uint32_t*>(&a);
  *y2 = *reinterpret_cast<const uint32_t*>(&b);
}

// ---- Values: acc[m] += V^T p, a column of p (b0, b1) for each query head.

// bf16 rows of `stride` bytes; tile m holds numbers 16m .. 16m + 15.
template <int kTiles>
__device__ inline void AddValuesBF16(float (&acc)[kTiles][4], int tiles, const uint8_t* rows,
                                     int stride, int lane, uint32_t b0, uint32_t b1) {
  const int token = lane % 8 + lane / 16 * 8;
  const int column = lane / 8 % 2 * 8;
  const uint32_t base = SharedAddress(rows + token * stride + column * 2);
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
    if (m >= tiles) break;
    uint32_t a[4];
    LoadMatricesTransposed(a, base + m * 32);
    MmaBF16(acc[m], a, b0, b1);
  }
}

// Four codes of token `row`, numbers 32 unit + 4g .., four bits apart (eight for 8-bit codes).
template <int kBits>
__device__ inline uint32_t FourCodes(const uint8_t* row, int unit, int g, int high_offset) {
  if constexpr (kBits == 8) {
    return *reinterpret_cast<const uint32_t*>(row + 32 * unit + 4 * g);
  } else if constexpr (kBits == 4) {
    return *reinterpret_cast<const uint16_t*>(row + 16 * unit + 2 * g);
  } else {
    const uint32_t low = row[8 * unit + g];
    uint32_t spread = (low | low << 4) & 0x0f0fu;
    spread = (spread | spread << 2) & 0x3333u;
    if constexpr (kBits == 2) return spread;
    const uint32_t high = row[high_offset + 4 * unit + g / 2] >> (g % 2 * 4) & 15u;
    uint32_t top = (high | high << 6) & 0x0303u;
    top = (top | top << 3) & 0x1111u;
    return spread | top << 2;
  }
}

// The codes number j of two tokens as a pair of bf16, plus kCodeOffset.
template <int kBits>
__device__ inline uint32_t CodePair(uint32_t first, uint32_t second, int j) {
  if constexpr (kBits == 8) {
    const float a = __uint_as_float(__byte_perm(first, 0x4b000000u, 0x7440u | j)) - 8388608.0f;
    const float b = __uint_as_float(__byte_perm(second, 0x4b000000u, 0x7440u | j)) - 8388608.0f;
    return PackBF16(a, b);
  } else {
    const uint32_t both = __byte_perm(first, second, 0x5410);
    return (both >> 4 * j & 0x000f000fu) | 0x43004300u;
  }
}

// bf16 128 has a unit in the last place of 1: codes of up to four bits go into its mantissa.
template <int kBits>
inline constexpr float kCodeOffset = kBits == 8 ? 0.0f : 128.0f;

// Tile 2u + a holds numbers 32u + 4g + 2a in its rows g and 32u + 4g + 2a + 1 in its rows g + 8.
template <int kTiles, int kBits>
__device__ inline void AddCodes(float (&acc)[kTiles][4], int tiles, const uint8_t* rows, int stride,
                                int high_offset, int lane, uint32_t b0, uint32_t b1) {
  const int g = lane / 4;
  const uint8_t* row = rows + lane % 4 * 2 * stride;
#pragma unroll
  for (int unit = 0; unit < kTiles / 2; ++unit) {
    if (2 * unit >= tiles) break;
    const uint32_t c0 = FourCodes<kBits>(row, unit, g, high_offset);
    const uint32_t c1 = FourCodes<kBits>(row + stride, unit, g, high_offset);
    const uint32_t c2 = FourCodes<kBits>(row + 8 * stride, unit, g, high_offset);
    const uint32_t c3 = FourCodes<kBits>(row + 9 * stride, unit, g, high_offset);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t a[4] = {
          CodePair<kBits>(c0, c1, 2 * half), CodePair<kBits>(c0, c1, 2 * half + 1),
          CodePair<kBits>(c2, c3, 2 * half), CodePair<kBits>(c2, c3, 2 * half + 1)};
      MmaBF16(acc[2 * unit + half], a, b0, b1);
    }
  }
}

template <int kTiles>
__device__ inline void AddValueCodes(float (&acc)[kTiles][4], int tiles, const uint8_t* rows,
                                     int stride, int high_offset, LatentFormat format, int lane,
                                     uint32_t b0, uint32_t b1) {
  switch (format) {
    case LatentFormat::kInt8:
      return AddCodes<kTiles, 8>(acc, tiles, rows, stride, high_offset, lane, b0, b1);
    case LatentFormat::kInt4:
      return AddCodes<kTiles, 4>(acc, tiles, rows, stride, high_offset, lane, b0, b1);
    case LatentFormat::kInt3:
      return AddCodes<kTiles, 3>(acc, tiles, rows, stride, high_offset, lane, b0, b1);
    default:
      return AddCodes<kTiles, 2>(acc, tiles, rows, stride, high_offset, lane, b0, b1);
  }
}

}  // namespace palu::cuda
