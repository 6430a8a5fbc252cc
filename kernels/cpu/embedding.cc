#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/for_rows.h"

namespace palu::cpu {

void CpuBackend::Embedding(const EmbeddingArgs& args) {
  const int64_t width = args.table.dim(1);
  const int64_t row_bytes = args.table.stride[0] * static_cast<int64_t>(SizeOf(args.table.dtype));
  const int32_t* ids = args.ids.ptr<int32_t>();
  ForRows(pool_, args.out.dim(0), width, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      PALU_CHECK(ids[t] >= 0 && ids[t] < args.table.dim(0));
      float* out = args.out.ptr<float>() + t * args.out.stride[0];
      kernels_->to_f32(args.table.dtype, args.table.ptr<char>() + ids[t] * row_bytes, width, out);
      if (args.scale != 1.0f) kernels_->scale(out, width, args.scale);
    }
  });
}

}  // namespace palu::cpu
