#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/for_rows.h"

namespace palu::cpu {

void CpuBackend::Add(const AddArgs& args) {
  const int64_t width = args.x.dim(1);
  ForRows(pool_, args.x.dim(0), width, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* x = args.x.ptr<float>() + t * args.x.stride[0];
      const float* y = args.y.ptr<float>() + t * args.y.stride[0];
      for (int64_t i = 0; i < width; ++i) x[i] += y[i];
    }
  });
}

}  // namespace palu::cpu
