// The inner loops compiled for any processor.
#include "kernels/cpu/kernel_table.h"

#define PALU_SIMD_NAMESPACE portable
#include "kernels/cpu/kernel_loops.h"

namespace palu::cpu {

const KernelTable* PortableKernels() {
  static constexpr KernelTable kTable = portable::MakeTable("portable");
  return &kTable;
}

}  // namespace palu::cpu
