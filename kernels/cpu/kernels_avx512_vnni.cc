// The inner loops compiled for AVX-512 F, BW, DQ, VL and VNNI: integer dot products.
#include "kernels/cpu/kernel_table.h"

#if defined(__AVX512F__) && defined(__AVX512VNNI__)

#define PALU_SIMD_NAMESPACE avx512_vnni
#include "kernels/cpu/kernel_loops.h"

namespace palu::cpu {

const KernelTable* Avx512VnniKernels() {
  static constexpr KernelTable kTable = avx512_vnni::MakeTable("avx512_vnni");
  return &kTable;
}

}  // namespace palu::cpu

#else

namespace palu::cpu {

const KernelTable* Avx512VnniKernels() { return nullptr; }

}  // namespace palu::cpu

#endif
