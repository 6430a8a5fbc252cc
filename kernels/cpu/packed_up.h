// The up factor of keys as the integer rebuild reads it: signed bytes with one scale per row.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/tensor.h"

namespace palu::cpu {

// A view of memory of Bytes(rows, rank); factor[r][Number(i)] is about scales[r] * codes[r][i], the
// scale being the largest magnitude / 127, 1 where all are 0. Two rows that rotate together have
// the same scale, so that rotation can act on sums of codes. Of each eight numbers the even ones
// come first, as they do when packed nibbles are taken apart. Rows are padded with zeros to whole
// eights.
struct PackedUp {
  float* scales = nullptr;    // [rows]
  float* inverses = nullptr;  // [rows]: 1 / scale
  float* sums = nullptr;      // [rows]: of the row's codes
  int8_t* codes = nullptr;    // [rows, stride]
  int64_t stride = 0;

  static int64_t Stride(int64_t rank) { return RoundUp(rank, 8); }
  static int64_t Number(int64_t i) { return i / 8 * 8 + i % 4 * 2 + i / 4 % 2; }
  static size_t Bytes(int64_t rows, int64_t rank) {
    return static_cast<size_t>(rows) * (3 * sizeof(float) + static_cast<size_t>(Stride(rank)));
  }
  static PackedUp At(void* memory, int64_t rows, int64_t rank);

  // Rounds up ([heads * head_dim, rank], f32 | bf16 | f16) into this view. Rows i and
  // i + rotary_dim / 2 of a head rotate together.
  void Fill(const KernelTable& kernels, const Tensor& up, int head_dim, int rotary_dim) const;
};

}  // namespace palu::cpu
