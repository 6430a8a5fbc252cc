// Per-head transforms in place: rotary embedding and the block Hadamard rotation.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/ops.h"

namespace palu::cuda {
namespace {

// A token's pairs are shared by gridDim.y blocks; a thread turns one pair at a time.
template <typename T>
__global__ void RopeKernel(T* x, int64_t token_stride, int64_t head_stride, int heads, int half,
                           const int32_t* positions, const float* cos_sin) {
  AdmitNext();
  AwaitPrevious();
  const float* angles = cos_sin + static_cast<int64_t>(positions[blockIdx.x]) * 2 * half;
  const int step = gridDim.y * blockDim.x;
  for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < heads * half; i += step) {
    const int dim = i % half;
    T* head = x + blockIdx.x * token_stride + i / half * head_stride;
    const float c = angles[dim];
    const float s = angles[half + dim];
    const float a = ToFloat(head[dim]);
    const float b = ToFloat(head[dim + half]);
    head[dim] = FromFloat<T>(a * c - b * s);
    head[dim + half] = FromFloat<T>(b * c + a * s);
  }
}

// One block per (token, head), a thread per dimension; butterflies within sub-blocks of `block`.
template <typename T>
__global__ void HadamardKernel(T* x, int64_t token_stride, int64_t head_stride, int head_dim,
                               int block) {
  extern __shared__ float values[];
  T* head = x + blockIdx.x * token_stride + blockIdx.y * head_stride;
  for (int i = threadIdx.x; i < head_dim; i += blockDim.x) values[i] = ToFloat(head[i]);
  for (int step = 1; step < block; step *= 2) {
    __syncthreads();
    for (int i = threadIdx.x; i < head_dim / 2; i += blockDim.x) {
      const int low = i / step * 2 * step + i % step;
      const float a = values[low];
      const float b = values[low + step];
      values[low] = a + b;
      values[low + step] = a - b;
    }
  }
  __syncthreads();
  const float scale = rsqrtf(static_cast<float>(block));
  for (int i = threadIdx.x; i < head_dim; i += blockDim.x) {
    head[i] = FromFloat<T>(values[i] * scale);
  }
}

}  // namespace

void Rope(Context& context, const RopeArgs& args) {
  if (args.x.num_elements() == 0) return;
  const int half = args.cos_sin.dim(1) / 2;
  DispatchActivation(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    const int heads = args.x.dim(1);
    const dim3 grid(args.x.dim(0), CeilDiv(heads * half, 4 * 256));
    LaunchEarly(context, RopeKernel<T>, grid, 256, 0, "rope", args.x.ptr<T>(), args.x.stride[0],
                args.x.stride[1], heads, half, args.positions.ptr<int32_t>(),
                args.cos_sin.ptr<float>());
  });
}

void Hadamard(Context& context, const HadamardArgs& args) {
  if (args.x.num_elements() == 0) return;
  const int head_dim = args.x.dim(2);
  const int block = head_dim & -head_dim;
  const dim3 grid(args.x.dim(0), args.x.dim(1));
  DispatchActivation(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    HadamardKernel<T><<<grid, 128, head_dim * sizeof(float), context.stream.get()>>>(
        args.x.ptr<T>(), args.x.stride[0], args.x.stride[1], head_dim, block);
  });
  CheckLaunch("hadamard");
}

}  // namespace palu::cuda
