#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/for_rows.h"

namespace palu::cpu {

void CpuBackend::Hadamard(const HadamardArgs& args) {
  const int64_t heads = args.x.dim(1), head_dim = args.x.dim(2);
  const int64_t block = head_dim & -head_dim;
  const float factor = 1.0f / std::sqrt(static_cast<float>(block));
  ForRows(pool_, args.x.dim(0), heads * head_dim, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        float* head = args.x.ptr<float>() + t * args.x.stride[0] + h * args.x.stride[1];
        for (int64_t i = 0; i < head_dim; i += block) kernels_->hadamard(head + i, block, factor);
      }
    }
  });
}

}  // namespace palu::cpu
