#include "engine/model/host_floats.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/check.h"

namespace palu {
namespace {

float HalfToFloat(uint16_t half) {
  const int exponent = half >> 10 & 0x1f;
  const int mantissa = half & 0x3ff;
  float magnitude;
  if (exponent == 0x1f) {
    magnitude = mantissa == 0 ? HUGE_VALF : NAN;
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    magnitude = std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  }
  return half & 0x8000 ? -magnitude : magnitude;
}

uint16_t FloatToHalf(float number) {
  const uint16_t sign = std::signbit(number) ? 0x8000 : 0;
  const float magnitude = std::fabs(number);
  if (std::isnan(number)) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude == 0.0f) return sign;
  // nearbyint rounds to even; a mantissa that rounds up to 2048 carries into the exponent by
  // itself.
  const int exponent = std::max(std::ilogb(magnitude), -14);
  const auto mantissa = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  const uint32_t bits = (static_cast<uint32_t>(exponent + 14) << 10) + mantissa;
  return static_cast<uint16_t>(sign | bits);
}

uint16_t FloatToBfloat(float number) {
  const auto bits = std::bit_cast<uint32_t>(number);
  if (std::isnan(number)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace

std::optional<DType> FloatDType(const std::string& name) {
  if (name == "BF16") return DType::kBF16;
  if (name == "F16") return DType::kF16;
  if (name == "F32") return DType::kF32;
  return std::nullopt;
}

std::vector<float> ToFloats(std::span<const std::byte> bytes, DType dtype) {
  std::vector<float> numbers(bytes.size() / SizeOf(dtype));
  if (dtype == DType::kF32) {
    std::memcpy(numbers.data(), bytes.data(), bytes.size());
    return numbers;
  }
  PALU_CHECK(dtype == DType::kBF16 || dtype == DType::kF16);
  for (size_t i = 0; i < numbers.size(); ++i) {
    uint16_t stored;
    std::memcpy(&stored, bytes.data() + 2 * i, 2);
    numbers[i] = dtype == DType::kF16 ? HalfToFloat(stored)
                                      : std::bit_cast<float>(static_cast<uint32_t>(stored) << 16);
  }
  return numbers;
}

std::vector<std::byte> FromFloats(std::span<const float> numbers, DType dtype) {
  std::vector<std::byte> bytes(numbers.size() * SizeOf(dtype));
  if (dtype == DType::kF32) {
    std::memcpy(bytes.data(), numbers.data(), bytes.size());
    return bytes;
  }
  PALU_CHECK(dtype == DType::kBF16 || dtype == DType::kF16);
  for (size_t i = 0; i < numbers.size(); ++i) {
    const uint16_t stored =
        dtype == DType::kF16 ? FloatToHalf(numbers[i]) : FloatToBfloat(numbers[i]);
    std::memcpy(bytes.data() + 2 * i, &stored, 2);
  }
  return bytes;
}

void HadamardInPlace(float* x, int count, size_t stride) {
  const int block = count & -count;
  for (int begin = 0; begin < count; begin += block) {
    for (int half = 1; half < block; half *= 2) {
      for (int i = begin; i < begin + block; ++i) {
        if ((i - begin) & half) continue;
        float& a = x[static_cast<size_t>(i) * stride];
        float& b = x[static_cast<size_t>(i + half) * stride];
        const float sum = a + b, difference = a - b;
        a = sum;
        b = difference;
      }
    }
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(block));
  for (int i = 0; i < count; ++i) x[static_cast<size_t>(i) * stride] *= scale;
}

}  // namespace palu
