// Element types of tensors and of cached latents.
#pragma once

#include <cstddef>
#include <cstdint>

namespace palu {

// The last two are weight matrices in a backend's own packing (weight_format.h): such a tensor has
// a shape and a start, but no elements that can be addressed.
enum class DType : uint8_t { kF32, kBF16, kF16, kI32, kI64, kU8, kInt8Groups, kInt4Groups };

constexpr bool IsGrouped(DType type) { return type >= DType::kInt8Groups; }

constexpr size_t SizeOf(DType type) {
  switch (type) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kI64:
      return 8;
    case DType::kU8:
      return 1;
    case DType::kInt8Groups:
    case DType::kInt4Groups:
      return 0;
  }
  return 0;
}

constexpr const char* Name(DType type) {
  switch (type) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
    case DType::kU8:
      return "u8";
    case DType::kInt8Groups:
      return "int8 groups";
    case DType::kInt4Groups:
      return "int4 groups";
  }
  return "?";
}

}  // namespace palu
