// Number formats of weight matrices in memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace palu {

// kStored: the numbers of the checkpoint. The others hold codes with one f16 scale per row and
// kWeightGroup neighbouring columns, symmetric: value = scale * code, int8 codes in [-127, 127],
// int4 codes in [-8, 7].
enum class WeightFormat : uint8_t { kStored, kInt8, kInt4 };

inline constexpr int kWeightGroup = 32;

constexpr const char* Name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kStored:
      return "bf16";
    case WeightFormat::kInt8:
      return "int8";
    case WeightFormat::kInt4:
      return "int4";
  }
  return "?";
}

constexpr std::optional<WeightFormat> ParseWeightFormat(std::string_view name) {
  for (const WeightFormat format :
       {WeightFormat::kStored, WeightFormat::kInt8, WeightFormat::kInt4}) {
    if (name == Name(format)) return format;
  }
  return std::nullopt;
}

}  // namespace palu
