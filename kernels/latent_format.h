// How one token's latent row is stored in a cache block. Shared by every backend and by the layout
// code of the engine: the byte counts here are the ones that capacity and metrics report.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "kernels/buffer.h"
#include "kernels/tensor.h"

namespace palu {

// Float formats store the numbers themselves. fp8 is OCP E4M3 without a scale: 4 bits of exponent
// with bias 7 and 3 of mantissa, no infinities, NaN at 0x7f and 0xff; magnitudes above 448
// saturate and NaN stays NaN. IntN formats store N-bit unsigned codes with one
// (scale, zero) pair of f16 per token and group: value = scale * code + zero, where zero is the
// group's minimum and scale = (max - min) / (2^N - 1), both rounded to f16 before coding.
enum class LatentFormat : uint8_t { kF32, kBF16, kF16, kFp8, kInt8, kInt4, kInt3, kInt2 };

// Whether numbers are codes with a scale and a zero.
constexpr bool IsQuantized(LatentFormat format) { return format >= LatentFormat::kInt8; }

constexpr int Bits(LatentFormat format) {
  switch (format) {
    case LatentFormat::kF32:
      return 32;
    case LatentFormat::kBF16:
    case LatentFormat::kF16:
      return 16;
    case LatentFormat::kFp8:
    case LatentFormat::kInt8:
      return 8;
    case LatentFormat::kInt4:
      return 4;
    case LatentFormat::kInt3:
      return 3;
    case LatentFormat::kInt2:
      return 2;
  }
  return 0;
}

constexpr const char* Name(LatentFormat format) {
  switch (format) {
    case LatentFormat::kF32:
      return "f32";
    case LatentFormat::kBF16:
      return "bf16";
    case LatentFormat::kF16:
      return "f16";
    case LatentFormat::kFp8:
      return "fp8";
    case LatentFormat::kInt8:
      return "int8";
    case LatentFormat::kInt4:
      return "int4";
    case LatentFormat::kInt3:
      return "int3";
    case LatentFormat::kInt2:
      return "int2";
  }
  return "?";
}

// A format by its name; fp8 also as fp8_e4m3, as other servers call it.
constexpr std::optional<LatentFormat> ParseLatentFormat(std::string_view name) {
  if (name == "fp8_e4m3") return LatentFormat::kFp8;
  for (int i = 0; i <= static_cast<int>(LatentFormat::kInt2); ++i) {
    const auto format = static_cast<LatentFormat>(i);
    if (name == Name(format)) return format;
  }
  return std::nullopt;
}

// Rows of at most 8 bits a number are padded with zeros to a multiple of this many numbers, so that
// packed rows end on a byte.
inline constexpr int kCodeGranularity = 8;
// Every plane of a block starts at a multiple of this many bytes.
inline constexpr int kPlaneAlignment = 16;
// One f16 scale and one f16 zero.
inline constexpr int kScaleBytes = 4;

// Bytes of one token's numbers or codes, padding included, scale and zero not.
//   fp8, int8: number i is byte i.
//   int4: codes 2i and 2i+1 are the low and the high nibble of byte i.
//   int2: code i is bits 2(i mod 4) .. of byte i / 4.
//   int3: a plane of the low two bits laid out as int2 (rank_padded / 4 bytes), then a plane of the
//         high bit, bit i mod 8 of byte i / 8 (rank_padded / 8 bytes).
constexpr int64_t RowBytes(LatentFormat format, int64_t rank) {
  if (Bits(format) > 8) return rank * Bits(format) / 8;
  const int64_t padded = (rank + kCodeGranularity - 1) / kCodeGranularity * kCodeGranularity;
  return padded * Bits(format) / 8;
}

// One (projection, group) of one layer inside a block: a plane of rows [block_size, row_bytes] and,
// when quantized, a plane of [block_size] (f16 scale, f16 zero) pairs. Offsets are bytes from the
// start of the block; a block holds all layers.
struct LatentSegment {
  LatentFormat format = LatentFormat::kF32;
  int rank = 0;               // numbers per token
  int64_t codes_offset = 0;   // bytes
  int64_t row_bytes = 0;      // == RowBytes(format, rank)
  int64_t scales_offset = 0;  // bytes; meaningful only when quantized
};

// One projection (K or V) of one layer as the kernels see it. Spans are owned by the model.
// Low rank: group g serves KV heads [g * heads_per_group, (g + 1) * heads_per_group), and
// head = up[g] rows [h * head_dim, ...) times latent (arXiv 2407.21118, section 3).
// Dense (up empty): the row is the heads themselves, heads_per_group * head_dim numbers.
struct LatentProjection {
  std::span<const LatentSegment> groups;
  int heads_per_group = 1;
  std::span<const Tensor> up;  // per group [heads_per_group * head_dim, rank], f32|bf16|f16
  // Keys: per group, what Backend::PackUp made of up; or empty.
  std::span<const Buffer> packed_up = {};

  bool dense() const { return up.empty(); }
};

// The pool of blocks: block b starts at data + b * block_bytes.
struct LatentPool {
  std::byte* data = nullptr;
  int64_t block_bytes = 0;
  int block_size = 0;  // tokens per block
  int64_t num_blocks = 0;
};

}  // namespace palu
