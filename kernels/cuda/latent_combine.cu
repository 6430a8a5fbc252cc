// Merges the splits of a decode query and leaves latent space: one block per (query, head). Small:
// reads the splits' value latents and the head's factor once; what counts is few dependent loads.
#include <string>

#include "kernels/cuda/latent_params.cuh"
#include "kernels/cuda/mma.cuh"

namespace palu::cuda {
namespace {

constexpr int kMaxWarps = 32;
constexpr int kLanesPerRow = 8;  // of the factor
constexpr int kColumns = 4;      // latent numbers per lane and pass over the splits
constexpr int kBatch = 5;        // splits that a warp reads at a time
// Of factor rows that a block copies ahead, before the splits are there.
constexpr size_t kMostFactorBytes = 64 << 10;

// What a warp makes of its splits: each is read once, header and numbers together.
struct Merged {
  float largest = -INFINITY;
  float sum = 0;
  float value[kColumns] = {};

  __device__ void Add(float2 header, const float (&numbers)[kColumns]) {
    if (!(header.y > 0.0f)) return;  // a split without tokens has written nothing more
    const float now = fmaxf(largest, header.x);
    const float old_share = exp2f(largest - now);
    const float share = exp2f(header.x - now);
    largest = now;
    sum = sum * old_share + header.y * share;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) value[i] = value[i] * old_share + numbers[i] * share;
  }
};

// Numbers [first, first + 128) of this warp's splits, four a lane.
__device__ Merged MergeSplits(const AttentionParams& p, const float* parts, int first, int rank) {
  const int at = first + threadIdx.x % kWarp * kColumns;
  const int warps = blockDim.x / kWarp;
  Merged merged;
  for (int s0 = threadIdx.x / kWarp; s0 < p.splits; s0 += kBatch * warps) {
    float2 header[kBatch];
    float numbers[kBatch][kColumns];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int s = s0 + i * warps;
      const float* part = parts + static_cast<int64_t>(s < p.splits ? s : s0) * p.partial_stride;
      header[i] = *reinterpret_cast<const float2*>(part);
      if (s >= p.splits) header[i].y = 0.0f;
      // Strides are multiples of four floats, so that the last read stays inside.
      const float4 four = at < rank ? *reinterpret_cast<const float4*>(part + 4 + at) : float4{};
      numbers[i][0] = four.x, numbers[i][1] = four.y;
      numbers[i][2] = four.z, numbers[i][3] = four.w;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) merged.Add(header[i], numbers[i]);
  }
  return merged;
}

// latent[r] = the splits' numbers, each weighted so that the weights of all tokens sum to one.
// sums: [warps, stride] with stride = rank rounded up to kColumns; scratch: [2, kMaxWarps].
__device__ void MergeLatents(const AttentionParams& p, const float* parts, int rank, float* scratch,
                             float* sums, float* latent) {
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int warps = blockDim.x / kWarp;
  const int stride = (rank + kColumns - 1) / kColumns * kColumns;
  for (int first = 0; first < rank; first += kColumns * kWarp) {
    const Merged merged = MergeSplits(p, parts, first, rank);
    const int at = first + lane * kColumns;
    if (at < rank) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) sums[warp * stride + at + i] = merged.value[i];
    }
    if (lane == 0) {
      scratch[warp] = merged.largest;
      scratch[kMaxWarps + warp] = merged.sum;
    }
  }
  WaitCopies<0>();
  __syncthreads();
  const float of_lane = lane < warps ? scratch[lane] : -INFINITY;
  const float largest = WarpMax(of_lane);
  const float share = of_lane > -INFINITY ? exp2f(of_lane - largest) : 0.0f;
  const float sum = WarpSum(lane < warps ? scratch[kMaxWarps + lane] * share : 0.0f);
  const float weight = sum > 0.0f ? share / sum : 0.0f;
  for (int r = threadIdx.x; r - lane < rank; r += blockDim.x) {
    float total = 0;
    for (int w = 0; w < warps; ++w) {
      const float of_warp = __shfl_sync(~0u, weight, w);
      if (r < rank) total = fmaf(of_warp, sums[w * stride + r], total);
    }
    if (r < rank) latent[r] = total;
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
__global__ void __launch_bounds__(kMaxWarps* kWarp)
    CombineKernel(__grid_constant__ const AttentionParams p, bool copy_factor) {
  // Rounded up to kColumns: sums [warps, rank], latent [rank]; then the factor.
  extern __shared__ __align__(16) float memory[];
  __shared__ float scratch[2 * kMaxWarps];
  AdmitNext();
  const int head = blockIdx.y / (p.q_heads / p.kv_heads);
  const SegmentView& segment = p.value.groups[head / p.value.heads_per_group];
  const int rank = p.value.dense ? p.head_dim : segment.rank;
  const int warps = blockDim.x / kWarp;
  const int rounded_rank = (rank + kColumns - 1) / kColumns * kColumns;
  float* latent = memory + warps * rounded_rank;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * p.q_heads + blockIdx.y;
  const float* parts = p.partial + row * p.splits * p.partial_stride;
  const U* factor = p.value.dense
                        ? nullptr
                        : static_cast<const U*>(segment.up) +
                              head % p.value.heads_per_group * p.head_dim * segment.up_stride;
  int64_t stride = segment.up_stride;
  if (copy_factor) {
    U* copy = reinterpret_cast<U*>(latent + rounded_rank);
    const int chunks = rank / Vec<U>::kCount;
    for (int i = threadIdx.x; i < p.head_dim * chunks; i += blockDim.x) {
      const int row = i / chunks;
      const int column = i % chunks * Vec<U>::kCount;
      CopyAsync16(SharedAddress(copy + row * rank + column), factor + row * stride + column, 16);
    }
    CommitCopies();
    factor = copy;
    stride = rank;
  }
  AwaitPrevious();
  MergeLatents(p, parts, rank, scratch, memory, latent);

  T* out =
      static_cast<T*>(p.out) + blockIdx.x * p.out_token_stride + blockIdx.y * p.out_head_stride;
  if (p.value.dense) {
    for (int d = threadIdx.x; d < p.head_dim; d += blockDim.x) out[d] = FromFloat<T>(latent[d]);
    return;
  }
  const bool aligned =
      reinterpret_cast<uintptr_t>(segment.up) % 16 == 0 && segment.up_stride * sizeof(U) % 16 == 0;
  const int lane = threadIdx.x % kLanesPerRow;
  const int rounded = (p.head_dim + kWarp - 1) / kWarp * kWarp;
#pragma unroll 4
  for (int d = threadIdx.x / kLanesPerRow; d < rounded; d += blockDim.x / kLanesPerRow) {
    float value = 0;
    if (d < p.head_dim) {
      value = RowShare(factor + d * stride, latent, rank, lane, aligned);
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

// Enough to read all splits at once; where blocks are few, more of them for the factor.
int WarpsFor(int splits, bool few_blocks) {
  int warps = few_blocks ? 16 : 4;
  while (warps < kMaxWarps && warps * kBatch < splits) warps *= 2;
  return warps;
}

// Of one head; 0: its rows are no whole chunks of sixteen bytes, or there is none.
size_t FactorBytes(const AttentionParams& p) {
  if (p.value.dense) return 0;
  size_t largest = 0;
  for (int g = 0; g < p.value.num_groups; ++g) {
    const SegmentView& segment = p.value.groups[g];
    const size_t number = SizeOf(segment.up_type);
    if (reinterpret_cast<uintptr_t>(segment.up) % 16 != 0 || segment.up_stride * number % 16 != 0 ||
        segment.rank * number % 16 != 0) {
      return 0;
    }
    const size_t bytes = p.head_dim * segment.rank * number;
    if (bytes > largest) largest = bytes;
  }
  return largest;
}

}  // namespace

void LaunchCombine(Context& context, const AttentionParams& p) {
  const int rank = p.value.dense ? p.head_dim : MaxRank(p.value);
  const int64_t blocks = static_cast<int64_t>(p.tokens) * p.q_heads;
  const int warps = WarpsFor(p.splits, blocks <= context.multiprocessors);
  size_t bytes = static_cast<size_t>(warps + 1) * (rank + kColumns) * sizeof(float);
  const size_t factor_bytes = FactorBytes(p);
  const bool copy_factor = factor_bytes > 0 && factor_bytes <= kMostFactorBytes &&
                           bytes + factor_bytes <= context.max_shared_bytes;
  if (copy_factor) bytes += factor_bytes;
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
      // As the decode kernel has it: a multiprocessor drains before it divides its memory anew.
      Check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                 cudaSharedmemCarveoutMaxShared),
            "latent_combine");
      LaunchEarly(context, kernel, dim3(p.tokens, p.q_heads), warps * kWarp, bytes,
                  "latent_combine", p, copy_factor);
    });
  });
}

}  // namespace palu::cuda
