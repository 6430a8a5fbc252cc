// The inner loops compiled for AVX-512 F, BW, DQ and VL.
#include "kernels/cpu/kernel_table.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#define PALU_SIMD_NAMESPACE avx512
#include "kernels/cpu/kernel_loops.h"

namespace palu::cpu {

const KernelTable* Avx512Kernels() {
  static constexpr KernelTable kTable = avx512::MakeTable("avx512");
  return &kTable;
}

}  // namespace palu::cpu

#else

namespace palu::cpu {

const KernelTable* Avx512Kernels() { return nullptr; }

}  // namespace palu::cpu

#endif
