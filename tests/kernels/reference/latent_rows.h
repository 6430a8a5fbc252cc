// Latent rows as latent_format.h describes them, written number by number.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/latent_format.h"
#include "tests/kernels/reference/float_formats.h"

namespace palu::reference {

// A row's bytes in the codes plane and, when quantized, its four bytes in the scales plane.
struct PackedRow {
  std::vector<uint8_t> codes;
  std::vector<uint8_t> scale;
};

inline double SaturatedF16(double x) { return RoundF16(std::clamp(x, -65504.0, 65504.0)); }

inline void PutBits(std::vector<uint8_t>* bytes, size_t byte, int shift, uint32_t bits) {
  (*bytes)[byte] = static_cast<uint8_t>((*bytes)[byte] | (bits << shift));
}

inline void PutCode(LatentFormat format, size_t padded, size_t i, uint32_t code,
                    std::vector<uint8_t>* codes) {
  switch (format) {
    case LatentFormat::kInt8:
      return PutBits(codes, i, 0, code);
    case LatentFormat::kInt4:
      return PutBits(codes, i / 2, i % 2 == 0 ? 0 : 4, code);
    case LatentFormat::kInt2:
      return PutBits(codes, i / 4, 2 * static_cast<int>(i % 4), code);
    default:
      PutBits(codes, i / 4, 2 * static_cast<int>(i % 4), code % 4);
      PutBits(codes, padded / 4 + i / 8, static_cast<int>(i % 8), code / 4);
  }
}

inline PackedRow Pack(LatentFormat format, const std::vector<double>& row) {
  PackedRow packed;
  if (format == LatentFormat::kF32) {
    packed.codes.resize(4 * row.size());
    for (size_t i = 0; i < row.size(); ++i) {
      const float value = static_cast<float>(row[i]);
      std::memcpy(&packed.codes[4 * i], &value, 4);
    }
    return packed;
  }
  if (format == LatentFormat::kFp8) {
    packed.codes.resize((row.size() + 7) / 8 * 8);
    std::transform(row.begin(), row.end(), packed.codes.begin(), Fp8Bits);
    return packed;
  }
  if (!IsQuantized(format)) {
    packed.codes.resize(2 * row.size());
    for (size_t i = 0; i < row.size(); ++i) {
      const uint16_t bits =
          format == LatentFormat::kF16 ? F16Bits(SaturatedF16(row[i])) : BF16Bits(row[i]);
      std::memcpy(&packed.codes[2 * i], &bits, 2);
    }
    return packed;
  }
  const int levels = (1 << Bits(format)) - 1;
  const double low = *std::min_element(row.begin(), row.end());
  const double high = *std::max_element(row.begin(), row.end());
  const double zero = SaturatedF16(low), scale = SaturatedF16((high - low) / levels);
  const size_t padded = (row.size() + 7) / 8 * 8;
  packed.codes.resize(padded * Bits(format) / 8);
  for (size_t i = 0; i < row.size(); ++i) {
    const double position = scale > 0 ? (row[i] - zero) / scale : 0.0;
    const double code = std::clamp(std::nearbyint(position), 0.0, static_cast<double>(levels));
    PutCode(format, padded, i, static_cast<uint32_t>(code), &packed.codes);
  }
  const uint16_t bits[2] = {F16Bits(scale), F16Bits(zero)};
  packed.scale.resize(4);
  std::memcpy(packed.scale.data(), bits, 4);
  return packed;
}

inline uint32_t CodeOf(LatentFormat format, size_t padded, size_t i, const uint8_t* codes) {
  switch (format) {
    case LatentFormat::kInt8:
      return codes[i];
    case LatentFormat::kInt4:
      return (codes[i / 2] >> (i % 2 == 0 ? 0 : 4)) % 16;
    case LatentFormat::kInt2:
      return (codes[i / 4] >> (2 * (i % 4))) % 4;
    default:
      return (codes[i / 4] >> (2 * (i % 4))) % 4 + 4 * ((codes[padded / 4 + i / 8] >> (i % 8)) % 2);
  }
}

// scale points to the row's four bytes; unread for float formats.
inline std::vector<double> Unpack(LatentFormat format, size_t rank, const uint8_t* codes,
                                  const uint8_t* scale_bytes) {
  std::vector<double> row(rank);
  uint16_t bits[2] = {0, 0};
  if (IsQuantized(format)) std::memcpy(bits, scale_bytes, 4);
  for (size_t i = 0; i < rank; ++i) {
    if (format == LatentFormat::kF32) {
      float value;
      std::memcpy(&value, codes + 4 * i, 4);
      row[i] = value;
    } else if (format == LatentFormat::kFp8) {
      row[i] = Fp8Value(codes[i]);
    } else if (!IsQuantized(format)) {
      uint16_t half;
      std::memcpy(&half, codes + 2 * i, 2);
      row[i] = format == LatentFormat::kF16 ? F16Value(half) : BF16Value(half);
    } else {
      row[i] = F16Value(bits[0]) * CodeOf(format, (rank + 7) / 8 * 8, i, codes) + F16Value(bits[1]);
    }
  }
  return row;
}

}  // namespace palu::reference
