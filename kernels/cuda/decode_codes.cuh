// Packed codes of cached rows as operands of tensor-core products (docs/kernels/latent_decode.md).
// Lane (g, q) = (lane / 4, lane % 4) throughout.
#pragma once

#include <cuda_fp8.h>

#include "kernels/cuda/mma.cuh"
#include "kernels/latent_format.h"

namespace palu::cuda {

// ---- Rows in blocks of 32 numbers, of which lane (g, q) holds numbers 8q .. 8q + 7 of its token
// as four pairs of 16-bit numbers. Pair i holds numbers 2i and 2i + 1 of float rows, i and i + 4 of
// quantized ones. One product of 16 numbers takes two pairs.
__device__ constexpr int NumberInPair(bool quantized, int pair, int element) {
  return quantized ? pair + 4 * element : 2 * pair + element;
}

// How cached numbers are held: as bf16, as 4-bit codes, as codes of a width known at run time, or
// as fp8.
enum class Numbers { kBF16, kFour, kCodes, kFp8 };

// Whether they have a scale and a zero per token.
__device__ constexpr bool IsScaled(Numbers numbers) {
  return numbers == Numbers::kFour || numbers == Numbers::kCodes;
}

// Products of keys take bf16 rows as they are. f16 holds fp8 and codes exactly.
__device__ constexpr bool TakesF16(Numbers numbers) { return numbers != Numbers::kBF16; }

template <bool kF16>
__device__ inline uint32_t Pack(float low, float high) {
  return kF16 ? PackF16(low, high) : PackBF16(low, high);
}

// c = a b, or c += a b; `first` is known when compiling.
template <bool kF16>
__device__ inline void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                           bool first) {
  if (first) {
    if constexpr (kF16) {
      FirstMmaF16(c, a, b0, b1);
    } else {
      FirstMmaBF16(c, a, b0, b1);
    }
  } else if constexpr (kF16) {
    MmaF16(c, a, b0, b1);
  } else {
    MmaBF16(c, a, b0, b1);
  }
}

// The low two bytes, fp8 numbers, as f16.
__device__ inline uint32_t Fp8Pair(uint32_t bytes) {
  const __half2 pair =
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(bytes), __NV_E4M3);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Eight numbers in fp8 as pairs of f16.
__device__ inline uint4 Fp8Pairs(const uint8_t* numbers) {
  const uint2 eight = *reinterpret_cast<const uint2*>(numbers);
  return {Fp8Pair(eight.x), Fp8Pair(eight.x >> 16), Fp8Pair(eight.y), Fp8Pair(eight.y >> 16)};
}

// Spreads eight 2- or 3-bit codes from number `first` on over eight nibbles.
template <int kBits>
__device__ inline uint32_t SpreadCodes(const uint8_t* row, int first, int high_offset) {
  uint32_t spread = *reinterpret_cast<const uint16_t*>(row + first / 4);
  spread = (spread | spread << 8) & 0x00ff00ffu;
  spread = (spread | spread << 4) & 0x0f0f0f0fu;
  spread = (spread | spread << 2) & 0x33333333u;
  if constexpr (kBits == 2) return spread;
  uint32_t top = row[high_offset + first / 8];
  top = (top | top << 12) & 0x000f000fu;
  top = (top | top << 6) & 0x03030303u;
  top = (top | top << 3) & 0x11111111u;
  return spread | top << 2;
}

// Eight codes from number `first` on as pairs of f16. f16 1024 has a unit in the last place of 1.
template <int kBits>
__device__ inline uint4 CodePairs(const uint8_t* row, int first, int high_offset) {
  uint32_t pair[4];
  if constexpr (kBits == 8) {
    const uint2 codes = *reinterpret_cast<const uint2*>(row + first);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      pair[i] = __byte_perm(codes.x, codes.y, i | (4 + i) << 8) & 0x00ff00ffu;
    }
  } else {
    uint32_t codes;
    if constexpr (kBits == 4) {
      codes = *reinterpret_cast<const uint32_t*>(row + first / 2);
    } else {
      codes = SpreadCodes<kBits>(row, first, high_offset);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) pair[i] = codes >> 4 * i & 0x000f000fu;
  }
  const __half2 base = __half2half2(__ushort_as_half(0x6400));
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t bits = pair[i] | 0x64006400u;
    const __half2 code = __hsub2(*reinterpret_cast<const __half2*>(&bits), base);
    pair[i] = *reinterpret_cast<const uint32_t*>(&code);
  }
  return {pair[0], pair[1], pair[2], pair[3]};
}

// Widths known when compiling keep branches out of the inner loop.
template <bool kFour>
__device__ inline uint4 LoadCodePairs(const uint8_t* row, int first, LatentFormat format,
                                      int high_offset) {
  if (kFour || format == LatentFormat::kInt4) return CodePairs<4>(row, first, high_offset);
  if (format == LatentFormat::kInt8) return CodePairs<8>(row, first, high_offset);
  if (format == LatentFormat::kInt3) return CodePairs<3>(row, first, high_offset);
  return CodePairs<2>(row, first, high_offset);
}

// scale * code + zero of four pairs.
__device__ inline uint4 ScalePairs(uint4 pairs, __half2 scale_zero) {
  const __half2 scale = __low2half2(scale_zero);
  const __half2 zero = __high2half2(scale_zero);
  const auto apply = [&](uint32_t x) {
    const __half2 value = __hfma2(*reinterpret_cast<const __half2*>(&x), scale, zero);
    return *reinterpret_cast<const uint32_t*>(&value);
  };
  return {apply(pairs.x), apply(pairs.y), apply(pairs.z), apply(pairs.w)};
}

// ---- Values: acc[m] += V^T p, a column of p (b0, b1) for each query head.

// The value rows of kUnits units of sixteen tokens, and their weights as right operands.
template <int kUnits>
struct WeighedRows {
  const uint8_t* rows[kUnits];
  uint32_t b0[kUnits], b1[kUnits];
};

// bf16 rows of `stride` bytes; tile m holds numbers 16m .. 16m + 15.
template <int kTiles, int kUnits>
__device__ inline void AddValuesBF16(float (&acc)[kTiles][4], int tiles,
                                     const WeighedRows<kUnits>& values, int stride, int lane) {
  const int token = lane % 8 + lane / 16 * 8;
  const int column = lane / 8 % 2 * 8;
  uint32_t base[kUnits];
#pragma unroll
  for (int n = 0; n < kUnits; ++n) {
    base[n] = SharedAddress(values.rows[n] + token * stride + column * 2);
  }
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
    if (m >= tiles) break;
#pragma unroll
    for (int n = 0; n < kUnits; ++n) {
      uint32_t a[4];
      LoadMatricesTransposed(a, base[n] + m * 32);
      MmaBF16(acc[m], a, values.b0[n], values.b1[n]);
    }
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
__device__ constexpr float CodeOffset(LatentFormat format) {
  return format == LatentFormat::kInt8 ? 0.0f : 128.0f;
}

// Tile 2u + a holds numbers 32u + 4g + 2a in its rows g and 32u + 4g + 2a + 1 in its rows g + 8.
template <int kBits, int kTiles, int kUnits>
__device__ inline void AddCodes(float (&acc)[kTiles][4], int tiles,
                                const WeighedRows<kUnits>& values, int stride, int high_offset,
                                int lane) {
  const int g = lane / 4;
  const int first = lane % 4 * 2 * stride;
#pragma unroll
  for (int unit = 0; unit < kTiles / 2; ++unit) {
    if (2 * unit >= tiles) break;
#pragma unroll
    for (int n = 0; n < kUnits; ++n) {
      const uint8_t* row = values.rows[n] + first;
      const uint32_t c0 = FourCodes<kBits>(row, unit, g, high_offset);
      const uint32_t c1 = FourCodes<kBits>(row + stride, unit, g, high_offset);
      const uint32_t c2 = FourCodes<kBits>(row + 8 * stride, unit, g, high_offset);
      const uint32_t c3 = FourCodes<kBits>(row + 9 * stride, unit, g, high_offset);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t a[4] = {
            CodePair<kBits>(c0, c1, 2 * half), CodePair<kBits>(c0, c1, 2 * half + 1),
            CodePair<kBits>(c2, c3, 2 * half), CodePair<kBits>(c2, c3, 2 * half + 1)};
        MmaBF16(acc[2 * unit + half], a, values.b0[n], values.b1[n]);
      }
    }
  }
}

// Tiles as in AddCodes, but in f16, and so the weights: one instruction turns two fp8 numbers into
// f16, none into bf16.
template <int kTiles, int kUnits>
__device__ inline void AddValuesFp8(float (&acc)[kTiles][4], int tiles,
                                    const WeighedRows<kUnits>& values, int stride, int lane) {
  const int g = lane / 4;
  const int first = lane % 4 * 2 * stride;
#pragma unroll
  for (int unit = 0; unit < kTiles / 2; ++unit) {
    if (2 * unit >= tiles) break;
#pragma unroll
    for (int n = 0; n < kUnits; ++n) {
      const uint8_t* row = values.rows[n] + first;
      const uint32_t c0 = FourCodes<8>(row, unit, g, 0);
      const uint32_t c1 = FourCodes<8>(row + stride, unit, g, 0);
      const uint32_t c2 = FourCodes<8>(row + 8 * stride, unit, g, 0);
      const uint32_t c3 = FourCodes<8>(row + 9 * stride, unit, g, 0);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto pair = [](uint32_t first, uint32_t second, int j) {
          return Fp8Pair(__byte_perm(first, second, j | (4 + j) << 4));
        };
        const uint32_t a[4] = {pair(c0, c1, 2 * half), pair(c0, c1, 2 * half + 1),
                               pair(c2, c3, 2 * half), pair(c2, c3, 2 * half + 1)};
        MmaF16(acc[2 * unit + half], a, values.b0[n], values.b1[n]);
      }
    }
  }
}

template <bool kFour, int kTiles, int kUnits>
__device__ inline void AddValueCodes(float (&acc)[kTiles][4], int tiles,
                                     const WeighedRows<kUnits>& values, int stride, int high_offset,
                                     LatentFormat format, int lane) {
  if (kFour || format == LatentFormat::kInt4) {
    return AddCodes<4>(acc, tiles, values, stride, high_offset, lane);
  }
  if (format == LatentFormat::kInt8) {
    return AddCodes<8>(acc, tiles, values, stride, high_offset, lane);
  }
  if (format == LatentFormat::kInt3) {
    return AddCodes<3>(acc, tiles, values, stride, high_offset, lane);
  }
  return AddCodes<2>(acc, tiles, values, stride, high_offset, lane);
}

}  // namespace palu::cuda
