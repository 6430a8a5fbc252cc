// The inner loops compiled for AVX-512 with bf16 dot products; all but the matrix products of bf16
// weights are those of kernels_avx512.cc.
#include "kernels/cpu/kernel_table.h"

#if defined(__AVX512BF16__)

#define PALU_SIMD_NAMESPACE avx512_bf16
#include "kernels/cpu/kernel_loops.h"
#include "kernels/cpu/simd_bf16_dot.h"

namespace palu::cpu {

const KernelTable* Avx512Bf16Kernels() {
  static constexpr KernelTable kTable = [] {
    KernelTable table = avx512_bf16::MakeTable("avx512_bf16");
    table.matmul = avx512_bf16::MatmulBf16;
    table.packed_matmul = nullptr;
    return table;
  }();
  return &kTable;
}

}  // namespace palu::cpu

#else

namespace palu::cpu {

const KernelTable* Avx512Bf16Kernels() { return nullptr; }

}  // namespace palu::cpu

#endif
