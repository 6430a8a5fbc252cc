// Per-head transforms in place: rotary embedding and the block Hadamard rotation.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/rope.cuh"

namespace palu::cuda {
namespace {

// A token's pairs are shared by gridDim.y blocks.
template <typename T>
__global__ void RopeKernel(__grid_constant__ const RopeView view) {
  AdmitNext();
  const PairTurner<T> turner(view, blockIdx.x, blockIdx.y * blockDim.x + threadIdx.x,
                             gridDim.y * blockDim.x);
  AwaitPrevious();
  turner.Turn();
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
  const RopeView view = ViewOf(args);
  DispatchActivation(args.x.dtype, [&](auto type) {
    const dim3 grid(args.x.dim(0), CeilDiv(view.heads * view.half, kPairsPerThread * 256));
    LaunchEarly(context, RopeKernel<decltype(type)>, grid, 256, 0, "rope", view);
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
