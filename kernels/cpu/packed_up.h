// The up factor of keys as the integer rebuild reads it: signed bytes with one scale per row.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/tensor.h"

namespace palu::cpu {

// A view of memory of Bytes(rows, rank); factor[r][i] is about scales[r] * codes[r][i], the scale
// being the row's largest magnitude / 127. Rows are padded with zeros to whole quads.
struct PackedUp {
  float* scales = nullptr;  // [rows]
  float* sums = nullptr;    // [rows]: of the row as rounded
  int8_t* codes = nullptr;  // [rows, stride]
  int64_t stride = 0;

  static int64_t Stride(int64_t rank) { return RoundUp(rank, 4); }
  static size_t Bytes(int64_t rows, int64_t rank) {
    return static_cast<size_t>(rows) * (2 * sizeof(float) + static_cast<size_t>(Stride(rank)));
  }
  static PackedUp At(void* memory, int64_t rows, int64_t rank);

  // Rounds up ([rows, rank], f32 | bf16 | f16) into this view.
  void Fill(const KernelTable& kernels, const Tensor& up) const;
};

}  // namespace palu::cpu
