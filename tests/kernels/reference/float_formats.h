// Independent model of the 16-bit float formats and fp8, by arithmetic in double rather than on
// bits.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/dtype.h"

namespace palu::reference {

// Nearest value with mantissa_bits explicit bits and the given exponent range; ties to even.
inline double RoundFloat(double x, int mantissa_bits, int min_exponent, double largest) {
  if (x == 0.0 || !std::isfinite(x)) return x;
  const int exponent = std::max(std::ilogb(x), min_exponent);
  const double step = std::ldexp(1.0, exponent - mantissa_bits);
  const double rounded = std::nearbyint(x / step) * step;
  if (std::fabs(rounded) > largest) {
    return std::copysign(std::numeric_limits<double>::infinity(), x);
  }
  return rounded;
}

inline double RoundF16(double x) { return RoundFloat(x, 10, -14, 65504.0); }
inline double RoundBF16(double x) { return RoundFloat(x, 7, -126, 0x1.fep127); }

inline double RoundTo(DType dtype, double x) {
  if (dtype == DType::kBF16) return RoundBF16(x);
  if (dtype == DType::kF16) return RoundF16(x);
  return static_cast<float>(x);
}

// Bits of a value that the format holds exactly.
inline uint16_t BitsOf(double x, int mantissa_bits, int min_exponent, int bias) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const int exponent_field_max = 2 * bias + 1;
  if (std::isinf(x)) return sign | static_cast<uint16_t>(exponent_field_max << mantissa_bits);
  if (x == 0.0) return sign;
  if (std::isnan(x)) return 0x7fff;
  const double magnitude = std::fabs(x);
  const int exponent = std::max(std::ilogb(magnitude), min_exponent);
  const auto units = static_cast<uint32_t>(std::ldexp(magnitude, mantissa_bits - exponent));
  const uint32_t hidden = 1u << mantissa_bits;
  if (units < hidden) return sign | static_cast<uint16_t>(units);
  return static_cast<uint16_t>(sign | (static_cast<uint32_t>(exponent + bias) << mantissa_bits) |
                               (units - hidden));
}

inline uint16_t F16Bits(double x) { return BitsOf(RoundF16(x), 10, -14, 15); }
inline uint16_t BF16Bits(double x) { return BitsOf(RoundBF16(x), 7, -126, 127); }

inline double FromBits(uint16_t bits, int mantissa_bits, int bias) {
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  const int exponent = (bits & 0x7fff) >> mantissa_bits;
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  if (exponent == 2 * bias + 1) {
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

inline double F16Value(uint16_t bits) { return FromBits(bits, 10, 15); }
inline double BF16Value(uint16_t bits) { return FromBits(bits, 7, 127); }

// Bit 7 is the sign, then four bits of exponent and three of mantissa; only 0x7f is no number.
inline double Fp8Value(uint8_t code) {
  const double sign = code >= 128 ? -1.0 : 1.0;
  const int exponent = code / 8 % 16, mantissa = code % 8;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<double>::quiet_NaN();
  if (exponent == 0) return sign * std::ldexp(mantissa / 8.0, -6);
  return sign * std::ldexp(1.0 + mantissa / 8.0, exponent - 7);
}

// The code of the nearest of all values; of two as near the even one.
inline uint8_t Fp8Bits(double x) {
  static const std::array<double, 0x7f> values = [] {
    std::array<double, 0x7f> ascending;
    for (int code = 0; code < 0x7f; ++code) {
      ascending[static_cast<size_t>(code)] = Fp8Value(static_cast<uint8_t>(code));
    }
    return ascending;
  }();
  if (std::isnan(x)) return 0x7f;
  const double magnitude = std::fabs(x);
  const auto above = std::lower_bound(values.begin(), values.end(), magnitude);
  auto best = static_cast<int>(std::min(above, values.end() - 1) - values.begin());
  if (above != values.begin() && above != values.end()) {
    const double up = *above - magnitude, down = magnitude - *(above - 1);
    if (down < up || (down == up && best % 2 == 1)) --best;
  }
  return static_cast<uint8_t>(best + (std::signbit(x) ? 128 : 0));
}

inline std::vector<double> Rounded(DType dtype, const std::vector<double>& values) {
  std::vector<double> result(values.size());
  for (size_t i = 0; i < values.size(); ++i) result[i] = RoundTo(dtype, values[i]);
  return result;
}

}  // namespace palu::reference
