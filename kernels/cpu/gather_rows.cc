#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"

namespace palu::cpu {

void CpuBackend::GatherRows(const GatherRowsArgs& args) {
  const int64_t width = args.x.dim(1);
  const int32_t* rows = args.rows.ptr<int32_t>();
  for (int64_t i = 0; i < args.out.dim(0); ++i) {
    PALU_CHECK(rows[i] >= 0 && rows[i] < args.x.dim(0));
    std::memcpy(args.out.ptr<float>() + i * args.out.stride[0],
                args.x.ptr<float>() + rows[i] * args.x.stride[0], width * sizeof(float));
  }
}

}  // namespace palu::cpu
