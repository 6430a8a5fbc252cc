// RMS norm over the last dimension: one warp per row when rows are short (heads), one block
// otherwise. Bound by reading and writing x once; the second read comes from the cache.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/ops.h"

namespace palu::cuda {
namespace {

struct Rows {
  int64_t outer_stride;
  int64_t inner_stride;
  int inner;  // rows per outer index
};

__device__ int64_t RowOffset(const Rows& rows, int64_t row) {
  return row / rows.inner * rows.outer_stride + row % rows.inner * rows.inner_stride;
}

template <typename T>
__global__ void RmsNormKernel(const T* x, Rows x_rows, const void* weight, DType weight_type,
                              T* out, Rows out_rows, int columns, float eps, float offset) {
  __shared__ float scratch[kWarp];
  const T* from = x + RowOffset(x_rows, blockIdx.x);
  T* to = out + RowOffset(out_rows, blockIdx.x);
  float sum = 0;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) {
    const float v = ToFloat(from[i]);
    sum += v * v;
  }
  const float scale = rsqrtf(BlockSum(sum, scratch) / columns + eps);
  for (int i = threadIdx.x; i < columns; i += blockDim.x) {
    to[i] = FromFloat<T>(ToFloat(from[i]) * scale * (LoadAs(weight, weight_type, i) + offset));
  }
}

Rows RowsOf(const Tensor& x) {
  if (x.rank == 2) return {x.stride[0], 0, 1};
  return {x.stride[0], x.stride[1], static_cast<int>(x.dim(1))};
}

}  // namespace

void RmsNorm(Context& context, const RmsNormArgs& args) {
  const int columns = args.x.dim(args.x.rank - 1);
  const int64_t rows = args.x.num_elements() / columns;
  if (rows == 0) return;
  const int threads = columns <= 256 ? kWarp : columns <= 2048 ? 256 : 512;
  DispatchActivation(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    RmsNormKernel<T><<<rows, threads, 0, context.stream.get()>>>(
        args.x.ptr<T>(), RowsOf(args.x), args.weight.data, args.weight.dtype, args.out.ptr<T>(),
        RowsOf(args.out), columns, args.eps, args.weight_offset);
  });
  CheckLaunch("rms_norm");
}

}  // namespace palu::cuda
