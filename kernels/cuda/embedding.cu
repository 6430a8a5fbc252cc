// Table look-ups: embedding and row gather. Bound by the bytes of the rows.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/ops.h"

namespace palu::cuda {
namespace {

template <typename Out, typename In>
__global__ void LookUpKernel(const int32_t* rows, const In* table, int64_t table_stride, Out* out,
                             int64_t out_stride, int columns, float scale) {
  const In* from = table + static_cast<int64_t>(rows[blockIdx.x]) * table_stride;
  Out* to = out + blockIdx.x * out_stride;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) {
    to[i] = FromFloat<Out>(ToFloat(from[i]) * scale);
  }
}

void LookUp(Context& context, const Tensor& rows, const Tensor& table, const Tensor& out,
            float scale, const char* op) {
  if (rows.dim(0) == 0) return;
  DispatchActivation(out.dtype, [&](auto out_type) {
    DispatchFloat(table.dtype, [&](auto in_type) {
      using Out = decltype(out_type);
      using In = decltype(in_type);
      LookUpKernel<Out, In><<<rows.dim(0), 256, 0, context.stream.get()>>>(
          rows.ptr<int32_t>(), table.ptr<In>(), table.stride[0], out.ptr<Out>(), out.stride[0],
          table.dim(1), scale);
    });
  });
  CheckLaunch(op);
}

}  // namespace

void Embedding(Context& context, const EmbeddingArgs& args) {
  LookUp(context, args.ids, args.table, args.out, args.scale, "embedding");
}

void GatherRows(Context& context, const GatherRowsArgs& args) {
  LookUp(context, args.rows, args.x, args.out, 1.0f, "gather_rows");
}

}  // namespace palu::cuda
