// The inner loops compiled for AVX2, FMA and F16C.
#include "kernels/cpu/kernel_table.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#define PALU_SIMD_NAMESPACE avx2
#include "kernels/cpu/kernel_loops.h"

namespace palu::cpu {

const KernelTable* Avx2Kernels() {
  static constexpr KernelTable kTable = avx2::MakeTable("avx2");
  return &kTable;
}

}  // namespace palu::cpu

#else

namespace palu::cpu {

const KernelTable* Avx2Kernels() { return nullptr; }

}  // namespace palu::cpu

#endif
