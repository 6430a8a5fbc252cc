// Merges the splits of a decode query and leaves latent space: one block per (query, head). Small:
// reads the splits' value latents and the head's factor once; what counts is few dependent loads.
#include <string>

#include "kernels/cuda/latent_params.cuh"

namespace palu::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kLanesPerRow = 8;  // of the factor
constexpr int kColumns = 8;      // latent numbers per lane and pass over the splits

// Weights of the splits into `weight`, so that they sum to one over all tokens.
__device__ void WeighSplits(const AttentionParams& p, const float* parts, float* weight,
                            float* scratch) {
  float largest = -INFINITY;
  for (int s = threadIdx.x; s < p.splits; s += kThreads) {
    weight[s] = parts[static_cast<int64_t>(s) * p.partial_stride];
    largest = fmaxf(largest, weight[s]);
  }
  largest = BlockMax(largest, scratch);
  float sum = 0;
  for (int s = threadIdx.x; s < p.splits; s += kThreads) {
    const float share = weight[s] > -INFINITY ? exp2f(weight[s] - largest) : 0.0f;
    weight[s] = share;
    if (share > 0.0f) sum += share * parts[static_cast<int64_t>(s) * p.partial_stride + 1];
  }
  sum = BlockSum(sum, scratch);
  const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
  for (int s = threadIdx.x; s < p.splits; s += kThreads) weight[s] *= inverse;
  __syncthreads();
}

// latent[r] = sum of the splits; warps share the splits, lanes the numbers. sums: [kWarps, rank].
__device__ void MergeLatents(const AttentionParams& p, const float* parts, const float* weight,
                             int rank, float* sums, float* latent) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  for (int r0 = 0; r0 < rank; r0 += kColumns * kWarp) {
    float total[kColumns] = {};
#pragma unroll 4
    for (int s = warp; s < p.splits; s += kWarps) {
      const float w = weight[s];
      const float* part = parts + static_cast<int64_t>(s) * p.partial_stride + 4;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const int r = r0 + i * kWarp + lane;
        // A split without tokens has written nothing.
        if (r < rank && w > 0.0f) total[i] = fmaf(w, part[r], total[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int r = r0 + i * kWarp + lane;
      if (r < rank) sums[warp * rank + r] = total[i];
    }
  }
  __syncthreads();
  for (int r = threadIdx.x; r < rank; r += kThreads) {
    float total = 0;
    for (int w = 0; w < kWarps; ++w) total += sums[w * rank + r];
    latent[r] = total;
  }
  __syncthreads();
}

// This lane's share of factor row . latent.
template <typename U>
__device__ float RowShare(const U* row, const float* latent, int rank, int lane, bool aligned) {
  float value = 0;
  constexpr int kCount = Vec<U>::kCount;
  const int vectors = aligned ? rank / kCount : 0;
#pragma unroll 4
  for (int i = lane; i < vectors; i += kLanesPerRow) {
    const auto v = reinterpret_cast<const Vec<U>*>(row)[i];
#pragma unroll
    for (int j = 0; j < kCount; ++j) value = fmaf(ToFloat(v.v[j]), latent[i * kCount + j], value);
  }
  for (int r = vectors * kCount + lane; r < rank; r += kLanesPerRow) {
    value = fmaf(ToFloat(row[r]), latent[r], value);
  }
  return value;
}

template <typename T, typename U>
__global__ void __launch_bounds__(kThreads)
    CombineKernel(__grid_constant__ const AttentionParams p) {
  extern __shared__ float memory[];  // weights [splits], latent [rank], sums [kWarps, rank]
  __shared__ float scratch[kWarp];
  const int head = blockIdx.y / (p.q_heads / p.kv_heads);
  const SegmentView& segment = p.value.groups[head / p.value.heads_per_group];
  const int rank = p.value.dense ? p.head_dim : segment.rank;
  float* latent = memory + p.splits;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * p.q_heads + blockIdx.y;
  const float* parts = p.partial + row * p.splits * p.partial_stride;
  WeighSplits(p, parts, memory, scratch);
  MergeLatents(p, parts, memory, rank, latent + rank, latent);

  T* out =
      static_cast<T*>(p.out) + blockIdx.x * p.out_token_stride + blockIdx.y * p.out_head_stride;
  if (p.value.dense) {
    for (int d = threadIdx.x; d < p.head_dim; d += kThreads) out[d] = FromFloat<T>(latent[d]);
    return;
  }
  const U* factor = static_cast<const U*>(segment.up) +
                    head % p.value.heads_per_group * p.head_dim * segment.up_stride;
  const bool aligned =
      reinterpret_cast<uintptr_t>(segment.up) % 16 == 0 && segment.up_stride * sizeof(U) % 16 == 0;
  const int lane = threadIdx.x % kLanesPerRow;
  const int rounded = (p.head_dim + kWarp - 1) / kWarp * kWarp;
#pragma unroll 4
  for (int d = threadIdx.x / kLanesPerRow; d < rounded; d += kThreads / kLanesPerRow) {
    float value = 0;
    if (d < p.head_dim) {
      value = RowShare(factor + d * segment.up_stride, latent, rank, lane, aligned);
    }
    for (int mask = kLanesPerRow / 2; mask > 0; mask /= 2) {
      value += __shfl_xor_sync(~0u, value, mask);
    }
    if (lane != 0 || d >= p.head_dim) continue;
    if (p.value_bias != nullptr) {
      value += LoadAs(p.value_bias, p.value_bias_type, head * p.head_dim + d);
    }
    out[d] = FromFloat<T>(value);
  }
}

}  // namespace

void LaunchCombine(Context& context, const AttentionParams& p) {
  const int rank = p.value.dense ? p.head_dim : MaxRank(p.value);
  const size_t bytes = (p.splits + static_cast<size_t>(kWarps + 1) * rank) * sizeof(float);
  if (bytes > context.max_shared_bytes) {
    throw std::runtime_error("cuda attention: value rank " + std::to_string(rank) +
                             " needs more shared memory than the device has");
  }
  const DType factor = p.value.dense ? DType::kBF16 : p.value.groups[0].up_type;
  DispatchActivation(p.activations, [&](auto type) {
    DispatchFloat(factor, [&](auto up) {
      const auto kernel = CombineKernel<decltype(type), decltype(up)>;
      Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(bytes)),
            "latent_combine");
      kernel<<<dim3(p.tokens, p.q_heads), kThreads, bytes, context.stream.get()>>>(p);
    });
  });
  CheckLaunch("latent_combine");
}

}  // namespace palu::cuda
