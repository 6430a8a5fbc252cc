// The up factor of keys as the integer rebuild reads it: signed bytes with one scale per row.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/tensor.h"

namespace palu::cpu {

// A view of memory of Bytes(rows, rank); factor[r][Number(i)] is about scales[r] * codes[r][i], the
// scale being the row's largest magnitude / 127. Of each eight numbers the even ones come first, as
// they do when packed nibbles are taken apart. Rows are padded with zeros to whole eights.
struct PackedUp {
  float* scales = nullptr;  // [rows]
  float* sums = nullptr;    // [rows]: of the row as rounded
  int8_t* codes = nullptr;  // [rows, stride]
  int64_t stride = 0;

  static int64_t Stride(int64_t rank) { return RoundUp(rank, 8); }
  static int64_t Number(int64_t i) { return i / 8 * 8 + i % 4 * 2 + i / 4 % 2; }
  static size_t Bytes(int64_t rows, int64_t rank) {
    return static_cast<size_t>(rows) * (2 * sizeof(float) + static_cast<size_t>(Stride(rank)));
  }
  static PackedUp At(void* memory, int64_t rows, int64_t rank);

  // Rounds up ([rows, rank], f32 | bf16 | f16) into this view.
  void Fill(const KernelTable& kernels, const Tensor& up) const;
};

}  // namespace palu::cpu
