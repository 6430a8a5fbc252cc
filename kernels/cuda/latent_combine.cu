// Merges the splits of a decode query and leaves latent space: one block per (query, head).
#include "kernels/cuda/latent_params.cuh"

namespace palu::cuda {
namespace {

constexpr int kThreads = 128;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    CombineKernel(__grid_constant__ const AttentionParams p) {
  extern __shared__ float latent[];  // [rank]
  __shared__ float scratch[kWarp];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * p.q_heads + blockIdx.y;
  const float* parts = p.partial + row * p.splits * p.partial_stride;
  float largest = -INFINITY;
  for (int s = threadIdx.x; s < p.splits; s += kThreads) {
    largest = fmaxf(largest, parts[static_cast<int64_t>(s) * p.partial_stride]);
  }
  largest = BlockMax(largest, scratch);
  float sum = 0;
  for (int s = threadIdx.x; s < p.splits; s += kThreads) {
    const float* part = parts + static_cast<int64_t>(s) * p.partial_stride;
    if (part[0] > -INFINITY) sum += part[1] * exp2f(part[0] - largest);
  }
  sum = BlockSum(sum, scratch);
  const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;

  const int head = blockIdx.y / (p.q_heads / p.kv_heads);
  const SegmentView& segment = p.value.groups[head / p.value.heads_per_group];
  const int in_group = head % p.value.heads_per_group;
  const int rank = p.value.dense ? p.head_dim : segment.rank;
  for (int r = threadIdx.x; r < rank; r += kThreads) {
    float total = 0;
#pragma unroll 4
    for (int s = 0; s < p.splits; ++s) {
      const float* part = parts + static_cast<int64_t>(s) * p.partial_stride;
      const float m = part[0];
      if (m > -INFINITY) total = fmaf(part[4 + r], exp2f(m - largest), total);
    }
    latent[r] = total * inverse;
  }
  __syncthreads();
  T* out =
      static_cast<T*>(p.out) + blockIdx.x * p.out_token_stride + blockIdx.y * p.out_head_stride;
  if (p.value.dense) {
    for (int d = threadIdx.x; d < p.head_dim; d += kThreads) out[d] = FromFloat<T>(latent[d]);
    return;
  }
  const int lane = threadIdx.x % kWarp;
  for (int d = threadIdx.x / kWarp; d < p.head_dim; d += kThreads / kWarp) {
    const int64_t first = static_cast<int64_t>(in_group * p.head_dim + d) * segment.up_stride;
    float value = 0;
    for (int r = lane; r < rank; r += kWarp) {
      value = fmaf(LoadAs(segment.up, segment.up_type, first + r), latent[r], value);
    }
    value = WarpSum(value);
    if (lane != 0) continue;
    if (p.value_bias != nullptr) {
      value += LoadAs(p.value_bias, p.value_bias_type, head * p.head_dim + d);
    }
    out[d] = FromFloat<T>(value);
  }
}

}  // namespace

void LaunchCombine(Context& context, const AttentionParams& p) {
  const int rank = p.value.dense ? p.head_dim : MaxRank(p.value);
  DispatchActivation(p.activations, [&](auto type) {
    CombineKernel<decltype(type)>
        <<<dim3(p.tokens, p.q_heads), kThreads, rank * sizeof(float), context.stream.get()>>>(p);
  });
  CheckLaunch("latent_combine");
}

}  // namespace palu::cuda
