// One warp's work on sixteen cached tokens in the fast decode kernel
// (docs/kernels/latent_decode.md). Lane (g, q) = (lane / 4, lane % 4) throughout.
#pragma once

#include "kernels/cuda/mma.cuh"
#include "kernels/latent_format.h"

namespace palu::cuda {

// ---- Scores: the dot product of w = [cos | sin] Z, in mma accumulators, with the key latents.
// Accumulator tile i of a lane holds w of tokens g and g + 8 at numbers first + 2i and first + 2i +
// 1, first = q * kRank / 4.

template <int kRank>
__device__ inline float DotBF16(const float (&w)[kRank / 8][4], int half, const uint8_t* row,
                                int q) {
  const auto* words = reinterpret_cast<const uint4*>(row + q * (kRank / 2));
  float sum = 0;
#pragma unroll
  for (int j = 0; j < kRank / 32; ++j) {
    const uint4 four = words[j];
    const uint32_t pairs[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum = fmaf(w[4 * j + i][half], LowBF16(pairs[i]), sum);
      sum = fmaf(w[4 * j + i][half + 1], HighBF16(pairs[i]), sum);
    }
  }
  return sum;
}

// 1 + code / 2^bits, by placing the code at the top of the mantissa.
template <int kBits>
__device__ inline float CodeFraction(uint32_t codes, int i) {
  const int from = i * kBits;
  const int to = 23 - kBits;
  const uint32_t placed = to >= from ? codes << (to - from) : codes >> (from - to);
  return __uint_as_float((placed & (((1u << kBits) - 1) << to)) | 0x3f800000u);
}

// The dot product with scale * code + zero.
template <int kRank, int kBits>
__device__ inline float DotCodes(const float (&w)[kRank / 8][4], int half, const uint8_t* row,
                                 int q, __half2 scale_zero) {
  constexpr int kCount = kRank / 4;
  float weighted = 0;
  float sum = 0;
  const auto add = [&](int i, float fraction) {
    const float x = w[i / 2][half + i % 2];
    weighted = fmaf(x, fraction, weighted);
    sum += x;
  };
  if constexpr (kBits == 8) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const uint32_t codes = *reinterpret_cast<const uint32_t*>(row + q * kCount + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) add(i + j, CodeFraction<8>(codes, j));
    }
  } else if constexpr (kBits == 4) {
#pragma unroll
    for (int i = 0; i < kCount; i += 8) {
      const uint32_t codes = *reinterpret_cast<const uint32_t*>(row + (q * kCount + i) / 2);
#pragma unroll
      for (int j = 0; j < 8; ++j) add(i + j, CodeFraction<4>(codes, j));
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i += 8) {
      const int first = q * kCount + i;
      const uint32_t low = *reinterpret_cast<const uint16_t*>(row + first / 4);
      if constexpr (kBits == 2) {
#pragma unroll
        for (int j = 0; j < 8; ++j) add(i + j, CodeFraction<2>(low, j));
      } else {
        const uint32_t high = row[kRank / 4 + first / 8];
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const uint32_t code = (low >> 2 * j & 3) | (high >> j & 1) << 2;
          add(i + j, CodeFraction<3>(code, 0));
        }
      }
    }
  }
  const float2 sz = __half22float2(scale_zero);
  return sz.x * static_cast<float>(1 << kBits) * (weighted - sum) + sz.y * sum;
}

template <int kRank>
__device__ inline float Dot(const float (&w)[kRank / 8][4], int half, const uint8_t* row, int q,
                            LatentFormat format, __half2 scale_zero) {
  switch (format) {
    case LatentFormat::kInt8:
      return DotCodes<kRank, 8>(w, half, row, q, scale_zero);
    case LatentFormat::kInt4:
      return DotCodes<kRank, 4>(w, half, row, q, scale_zero);
    case LatentFormat::kInt3:
      return DotCodes<kRank, 3>(w, half, row, q, scale_zero);
    default:
      return DotCodes<kRank, 2>(w, half, row, q, scale_zero);
  }
}

// ---- Values: acc[m] += V^T p, where p (b0, b1) is the same in all eight columns.

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
