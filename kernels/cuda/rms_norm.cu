// RMS norm over the last dimension: one warp per row when rows are short (heads), one block
// otherwise. Bound by reading and writing x once.
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

// Rows of at most kVectors * blockDim.x vectors stay in registers between the two passes.
constexpr int kVectors = 4;

template <typename T>
__global__ void VectorNormKernel(const T* x, Rows x_rows, const void* weight, DType weight_type,
                                 T* out, Rows out_rows, int columns, float eps, float offset) {
  __shared__ float scratch[kWarp];
  constexpr int kCount = Vec<T>::kCount;
  AdmitNext();
  AwaitPrevious();
  const auto* from = reinterpret_cast<const Vec<T>*>(x + RowOffset(x_rows, blockIdx.x));
  auto* to = reinterpret_cast<Vec<T>*>(out + RowOffset(out_rows, blockIdx.x));
  Vec<T> row[kVectors];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int at = i * blockDim.x + threadIdx.x;
    if (at * kCount >= columns) continue;
    row[i] = from[at];
#pragma unroll
    for (int j = 0; j < kCount; ++j) sum += ToFloat(row[i].v[j]) * ToFloat(row[i].v[j]);
  }
  const float scale = rsqrtf(BlockSum(sum, scratch) / columns + eps);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int at = i * blockDim.x + threadIdx.x;
    if (at * kCount >= columns) continue;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const float w = LoadAs(weight, weight_type, at * kCount + j) + offset;
      row[i].v[j] = FromFloat<T>(ToFloat(row[i].v[j]) * scale * w);
    }
    to[at] = row[i];
  }
}

template <typename T>
__global__ void RmsNormKernel(const T* x, Rows x_rows, const void* weight, DType weight_type,
                              T* out, Rows out_rows, int columns, float eps, float offset) {
  __shared__ float scratch[kWarp];
  AdmitNext();
  AwaitPrevious();
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
  const Rows x_rows = RowsOf(args.x), out_rows = RowsOf(args.out);
  DispatchActivation(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kCount = Vec<T>::kCount;
    const auto aligned = [](const Tensor& t, const Rows& r) {
      return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && r.outer_stride % kCount == 0 &&
             r.inner_stride % kCount == 0;
    };
    const bool vectors = columns % kCount == 0 && aligned(args.x, x_rows) &&
                         aligned(args.out, out_rows) && columns <= 512 * kVectors * kCount;
    int threads = columns <= 256 ? kWarp : columns <= 2048 ? 256 : 512;
    if (vectors && columns <= kWarp * kVectors * kCount) threads = kWarp;
    const auto kernel = vectors ? VectorNormKernel<T> : RmsNormKernel<T>;
    LaunchEarly(context, kernel, dim3(rows), threads, 0, "rms_norm", args.x.ptr<T>(), x_rows,
                args.weight.data, args.weight.dtype, args.out.ptr<T>(), out_rows, columns, args.eps,
                args.weight_offset);
  });
}

}  // namespace palu::cuda
