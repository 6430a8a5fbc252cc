// Weight matrices of int8 or int4 codes as the integer kernels read them (simd_quant.h).
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/grouped_weight.h"
#include "kernels/tensor.h"

namespace palu::cpu {

static_assert(kQuadLanes == kWeightLanes);

// A view of one buffer (grouped_weight.h has its layout). Columns of the product are rows of the
// weight.
struct QuantWeight {
  WeightFormat format = WeightFormat::kInt8;
  int64_t cols = 0, depth = 0;
  uint8_t* codes = nullptr;
  uint16_t* scales = nullptr;

  int64_t Blocks() const { return WeightBlocks(cols); }
  int64_t Groups() const { return depth / kWeightGroup; }
  int64_t BlockBytes() const {
    return depth * kQuadLanes / (format == WeightFormat::kInt4 ? 2 : 1);
  }

  static QuantWeight At(void* memory, WeightFormat format, int64_t cols, int64_t depth);
  // Of a tensor of DType kInt8Groups or kInt4Groups.
  static QuantWeight Of(const Tensor& weight);

  // Rounds weight ([cols, depth], f32 | bf16 | f16); scales minimize the squared error.
  void Fill(const KernelTable& kernels, ThreadPool* pool, const Tensor& weight) const;

 private:
  void FillBlock(const KernelTable& kernels, const Tensor& weight, int64_t block) const;
  void PutGroup(int64_t block, int64_t group, int lane, const float* x) const;
};

}  // namespace palu::cpu
