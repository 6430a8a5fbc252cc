#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/for_rows.h"

namespace palu::cpu {

void CpuBackend::Rope(const RopeArgs& args) {
  const int64_t heads = args.x.dim(1), half = args.cos_sin.dim(1) / 2;
  const int32_t* positions = args.positions.ptr<int32_t>();
  ForRows(pool_, args.x.dim(0), heads * args.x.dim(2), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      PALU_CHECK(positions[t] >= 0 && positions[t] < args.cos_sin.dim(0));
      const float* cosines = args.cos_sin.ptr<float>() + positions[t] * args.cos_sin.stride[0];
      const float* sines = cosines + half;
      for (int64_t h = 0; h < heads; ++h) {
        float* first = args.x.ptr<float>() + t * args.x.stride[0] + h * args.x.stride[1];
        kernels_->rotate(first, first + half, cosines, sines, half);
      }
    }
  });
}

}  // namespace palu::cpu
