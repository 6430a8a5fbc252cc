#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/for_rows.h"

namespace palu::cpu {

void CpuBackend::RmsNorm(const RmsNormArgs& args) {
  const bool per_head = args.x.rank == 3;
  const int64_t heads = per_head ? args.x.dim(1) : 1;
  const int64_t width = args.x.dim(args.x.rank - 1);
  ForRows(pool_, args.x.dim(0), heads * width, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        const float* x = args.x.ptr<float>() + t * args.x.stride[0];
        float* out = args.out.ptr<float>() + t * args.out.stride[0];
        if (per_head) {
          x += h * args.x.stride[1];
          out += h * args.out.stride[1];
        }
        kernels_->rms_norm(x, args.weight.dtype, args.weight.data, width, args.eps,
                           args.weight_offset, out);
      }
    }
  });
}

}  // namespace palu::cpu
