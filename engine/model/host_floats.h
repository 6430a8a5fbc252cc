// Conversions between stored floats and f32 on the host, for load-time work on weights.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/dtype.h"

namespace palu {

// Of a safetensors dtype; nothing for types that are no floats of these.
std::optional<DType> FloatDType(const std::string& name);

// bytes hold numbers of dtype f32, bf16 or f16; they need not be aligned.
std::vector<float> ToFloats(std::span<const std::byte> bytes, DType dtype);

// Rounded to nearest even; f16 overflows to infinity.
std::vector<std::byte> FromFloats(std::span<const float> numbers, DType dtype);

// Multiplies x, of the given number of elements stride apart, by the orthonormal block Hadamard
// matrix of the largest power of two that divides count. It is symmetric and its own inverse.
void HadamardInPlace(float* x, int count, size_t stride);

}  // namespace palu
