// Attention for any shape, format, window, bias and query count, in f32 on the CUDA cores. A block
// owns the query heads of one KV head for a few consecutive queries of one sequence. It walks the
// cached tokens 32 at a time: rebuild the keys from the latents, norm, RoPE, scores, online
// softmax, and weights times value latents; the value factor is applied once at the end. The
// reference for the fast kernels on the device, and the path for what they do not serve.
#include <string>

#include "kernels/cuda/latent_params.cuh"

namespace palu::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTile = 32;   // tokens at a time: one per lane
constexpr int kDepth = 32;  // latent numbers of the rebuild at a time
constexpr int kMaxDims = 256;
constexpr float kLog2e = 1.4426950408889634f;

// Shared memory of a block; rows are (query, head of the KV head) pairs.
struct Shared {
  float* q;        // [rows, head_dim]
  float* k;        // [kTile, head_dim + 1]
  float* weights;  // [rows, kTile + 1]
  float* largest;  // [rows]
  float* sum;      // [rows]
  float* rescale;  // [rows]
  float* acc;      // [rows, rank]
  float* latents;  // [kTile, kDepth + 1]
  float* factor;   // [head_dim, kDepth + 1]
};

__host__ __device__ inline size_t Layout(Shared* shared, float* base, int rows, int head_dim,
                                         int rank) {
  float* next = base;
  const auto take = [&](size_t count) {
    float* here = next;
    next += count;
    return here;
  };
  shared->q = take(rows * head_dim);
  shared->k = take(kTile * (head_dim + 1));
  shared->weights = take(rows * (kTile + 1));
  shared->largest = take(rows);
  shared->sum = take(rows);
  shared->rescale = take(rows);
  shared->acc = take(static_cast<size_t>(rows) * rank);
  shared->latents = take(kTile * (kDepth + 1));
  shared->factor = take(head_dim * (kDepth + 1));
  return (next - base) * sizeof(float);
}

// What a block works on.
struct Work {
  int sequence;
  int first_query;  // row of q
  int queries;
  int position;    // of the first query
  int begin, end;  // cached tokens that it reads
  int head;        // KV head
  const int32_t* table;
};

// Tiles of `per_tile` queries, sequence after sequence.
__device__ bool FindWork(const AttentionParams& p, int per_tile, Work* work) {
  int tile = blockIdx.x;
  for (int s = 0; s < p.sequences; ++s) {
    const int first = p.cu_seqlens[s];
    const int count = p.cu_seqlens[s + 1] - first;
    const int tiles = (count + per_tile - 1) / per_tile;
    if (tile >= tiles) {
      tile -= tiles;
      continue;
    }
    work->sequence = s;
    work->first_query = first + tile * per_tile;
    work->queries = min(per_tile, count - tile * per_tile);
    work->position = p.context_lens[s] - count + tile * per_tile;
    const int last = work->position + work->queries - 1;
    if (p.splits > 1) {
      const SplitRange range = RangeOf(last, p.window, blockIdx.z, p.splits, kTile);
      work->begin = range.begin;
      work->end = range.end;
    } else {
      work->begin = p.window > 0 ? max(0, work->position + 1 - p.window) : 0;
      work->end = last + 1;
    }
    work->head = blockIdx.y;
    work->table = p.block_tables + s * p.table_stride;
    return true;
  }
  return false;
}

// k[token][:] = up h + bias for kTile tokens from `first` on; a lane per token, dims over warps.
__device__ void Rebuild(const AttentionParams& p, const Work& work, const Shared& shared,
                        const std::byte* block, int offset, bool valid) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const SegmentView& segment = p.key.groups[work.head / p.key.heads_per_group];
  const int in_group = work.head % p.key.heads_per_group;
  float* k = shared.k + lane * (p.head_dim + 1);
  if (p.key.dense) {
    for (int d = warp; d < p.head_dim; d += kWarps) {
      k[d] = valid ? LatentValue(segment, block, offset, in_group * p.head_dim + d) : 0.0f;
    }
    return;
  }
  float value[kMaxDims / kWarps] = {};
  for (int r0 = 0; r0 < segment.rank; r0 += kDepth) {
    __syncthreads();
    for (int r = warp; r < kDepth; r += kWarps) {
      shared.latents[lane * (kDepth + 1) + r] =
          valid && r0 + r < segment.rank ? LatentValue(segment, block, offset, r0 + r) : 0.0f;
    }
    for (int d = warp; d < p.head_dim; d += kWarps) {
      shared.factor[d * (kDepth + 1) + lane] =
          r0 + lane < segment.rank
              ? LoadAs(
                    segment.up, segment.up_type,
                    static_cast<int64_t>(in_group * p.head_dim + d) * segment.up_stride + r0 + lane)
              : 0.0f;
    }
    __syncthreads();
    for (int r = 0; r < kDepth; ++r) {
      const float h = shared.latents[lane * (kDepth + 1) + r];
#pragma unroll
      for (int i = 0; i < kMaxDims / kWarps; ++i) {
        const int d = warp + i * kWarps;
        if (d < p.head_dim) value[i] = fmaf(shared.factor[d * (kDepth + 1) + r], h, value[i]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kMaxDims / kWarps; ++i) {
    const int d = warp + i * kWarps;
    if (d >= p.head_dim) continue;
    const float bias = p.key_bias != nullptr
                           ? LoadAs(p.key_bias, p.key_bias_type, work.head * p.head_dim + d)
                           : 0.0f;
    k[d] = value[i] + bias;
  }
}

// Norm and RoPE of the rebuilt keys, a warp per token.
__device__ void NormAndRotate(const AttentionParams& p, const Work& work, const Shared& shared,
                              int first) {
  const int lane = threadIdx.x % kWarp;
  for (int token = threadIdx.x / kWarp; token < kTile; token += kWarps) {
    float* k = shared.k + token * (p.head_dim + 1);
    if (p.k_norm != nullptr) {
      float sum = 0;
      for (int d = lane; d < p.head_dim; d += kWarp) sum += k[d] * k[d];
      const float scale = rsqrtf(WarpSum(sum) / p.head_dim + p.k_norm_eps);
      for (int d = lane; d < p.head_dim; d += kWarp) {
        k[d] *= scale * (LoadAs(p.k_norm, p.k_norm_type, d) + p.k_norm_offset);
      }
      __syncwarp();
    }
    const int half = p.rotary / 2;
    const float* angles =
        p.cos_sin + static_cast<int64_t>(min(first + token, work.end - 1)) * p.rotary;
    for (int d = lane; d < half; d += kWarp) {
      const float a = k[d];
      const float b = k[d + half];
      k[d] = a * angles[d] - b * angles[half + d];
      k[d + half] = b * angles[d] + a * angles[half + d];
    }
  }
}

// Scores and the online softmax: a warp per row, a lane per token.
__device__ void Softmax(const AttentionParams& p, const Work& work, const Shared& shared, int rows,
                        int repeat, int first) {
  const int lane = threadIdx.x % kWarp;
  for (int row = threadIdx.x / kWarp; row < rows; row += kWarps) {
    const float* q = shared.q + row * p.head_dim;
    const float* k = shared.k + lane * (p.head_dim + 1);
    float score = 0;
    for (int d = 0; d < p.head_dim; ++d) score = fmaf(q[d], k[d], score);
    const int query = work.position + row / repeat;
    const int token = first + lane;
    const bool seen = token < work.end && token <= query && token >= work.begin &&
                      (p.window == 0 || token > query - p.window);
    score = seen ? score * p.scale * kLog2e : -INFINITY;
    const float old = shared.largest[row];
    const float largest = fmaxf(old, WarpMax(score));
    const float weight = seen ? exp2f(score - largest) : 0.0f;
    const float total = WarpSum(weight);
    shared.weights[row * (kTile + 1) + lane] = weight;
    __syncwarp();
    if (lane == 0) {
      const float rescale = old > -INFINITY ? exp2f(old - largest) : 0.0f;
      shared.rescale[row] = rescale;
      shared.sum[row] = shared.sum[row] * rescale + total;
      shared.largest[row] = largest;
    }
  }
}

// acc = acc * rescale + weights * value latents; a thread per latent number.
__device__ void Accumulate(const AttentionParams& p, const Work& work, const Shared& shared,
                           int rows, int rank, int first) {
  const SegmentView& segment = p.value.groups[work.head / p.value.heads_per_group];
  const int column0 = p.value.dense ? work.head % p.value.heads_per_group * p.head_dim : 0;
  for (int r = threadIdx.x; r < rank; r += kThreads) {
    float value[kTile];
#pragma unroll
    for (int t = 0; t < kTile; ++t) {
      const int token = first + t;
      const bool valid = token >= work.begin && token < work.end;
      value[t] = 0.0f;
      if (!valid) continue;
      const std::byte* block = p.pool + work.table[token / p.block_size] * p.block_bytes;
      value[t] = LatentValue(segment, block, token % p.block_size, column0 + r);
    }
    for (int row = 0; row < rows; ++row) {
      float sum = shared.acc[row * rank + r] * shared.rescale[row];
#pragma unroll
      for (int t = 0; t < kTile; ++t) {
        sum = fmaf(shared.weights[row * (kTile + 1) + t], value[t], sum);
      }
      shared.acc[row * rank + r] = sum;
    }
  }
}

// Writes the partial result of this split, or the finished rows.
template <typename T>
__device__ void Finish(const AttentionParams& p, const Work& work, const Shared& shared, int rows,
                       int rank, int repeat) {
  const int lane = threadIdx.x % kWarp;
  const SegmentView& segment = p.value.groups[work.head / p.value.heads_per_group];
  const int in_group = work.head % p.value.heads_per_group;
  for (int row = threadIdx.x / kWarp; row < rows; row += kWarps) {
    const int query = work.first_query + row / repeat;
    const int q_head = work.head * repeat + row % repeat;
    const float* acc = shared.acc + row * rank;
    if (p.splits > 1) {
      float* part =
          p.partial + ((static_cast<int64_t>(query) * p.q_heads + q_head) * p.splits + blockIdx.z) *
                          p.partial_stride;
      if (lane == 0) part[0] = shared.largest[row];
      if (lane == 0) part[1] = shared.sum[row];
      for (int r = lane; r < rank; r += kWarp) part[4 + r] = acc[r];
      continue;
    }
    const float inverse = shared.sum[row] > 0.0f ? 1.0f / shared.sum[row] : 0.0f;
    T* out = static_cast<T*>(p.out) + query * p.out_token_stride + q_head * p.out_head_stride;
    for (int d = lane; d < p.head_dim; d += kWarp) {
      float value = 0;
      if (p.value.dense) {
        value = acc[d] * inverse;
      } else {
        const int64_t first = static_cast<int64_t>(in_group * p.head_dim + d) * segment.up_stride;
        for (int r = 0; r < rank; ++r) {
          value = fmaf(LoadAs(segment.up, segment.up_type, first + r), acc[r], value);
        }
        value *= inverse;
        if (p.value_bias != nullptr) {
          value += LoadAs(p.value_bias, p.value_bias_type, work.head * p.head_dim + d);
        }
      }
      out[d] = FromFloat<T>(value);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    GeneralKernel(__grid_constant__ const AttentionParams p, int per_tile) {
  extern __shared__ float memory[];
  Work work;
  if (!FindWork(p, per_tile, &work)) return;
  const int repeat = p.q_heads / p.kv_heads;
  const int rows = work.queries * repeat;
  const int rank =
      p.value.dense ? p.head_dim : p.value.groups[work.head / p.value.heads_per_group].rank;
  Shared shared;
  Layout(&shared, memory, per_tile * repeat, p.head_dim, rank);
  for (int i = threadIdx.x; i < rows * p.head_dim; i += kThreads) {
    const int row = i / p.head_dim;
    shared.q[i] = ToFloat(static_cast<const T*>(
        p.q)[(work.first_query + row / repeat) * p.q_token_stride +
             (work.head * repeat + row % repeat) * p.q_head_stride + i % p.head_dim]);
  }
  for (int i = threadIdx.x; i < rows; i += kThreads) {
    shared.largest[i] = -INFINITY;
    shared.sum[i] = 0;
  }
  for (int i = threadIdx.x; i < rows * rank; i += kThreads) shared.acc[i] = 0;
  __syncthreads();

  const int lane = threadIdx.x % kWarp;
  for (int first = work.begin / kTile * kTile; first < work.end; first += kTile) {
    const int token = first + lane;
    const bool valid = token >= work.begin && token < work.end;
    const std::byte* block =
        valid ? p.pool + work.table[token / p.block_size] * p.block_bytes : p.pool;
    Rebuild(p, work, shared, block, token % p.block_size, valid);
    __syncthreads();
    if (!p.key.dense) {
      NormAndRotate(p, work, shared, first);
      __syncthreads();
    }
    Softmax(p, work, shared, rows, repeat, first);
    __syncthreads();
    Accumulate(p, work, shared, rows, rank, first);
    __syncthreads();
  }
  Finish<T>(p, work, shared, rows, rank, repeat);
}

}  // namespace

void LaunchGeneral(Context& context, AttentionParams& p, bool decode) {
  if (p.head_dim > kMaxDims) throw std::runtime_error("cuda attention: head_dim above 256");
  const int repeat = p.q_heads / p.kv_heads;
  const int rank = p.value.dense ? p.head_dim : MaxRank(p.value);
  Shared unused;
  int per_tile = decode ? 1 : repeat >= 16 ? 1 : 16 / repeat;
  size_t bytes = Layout(&unused, nullptr, per_tile * repeat, p.head_dim, rank);
  while (bytes > context.max_shared_bytes && per_tile > 1) {
    per_tile /= 2;
    bytes = Layout(&unused, nullptr, per_tile * repeat, p.head_dim, rank);
  }
  if (bytes > context.max_shared_bytes) {
    throw std::runtime_error("cuda attention: value rank " + std::to_string(rank) +
                             " needs more shared memory than the device has");
  }
  p.splits = 1;
  p.partial_stride = static_cast<int>(CeilDiv(rank, 4)) * 4 + 4;
  // In f32 nothing is split, so that a query's bits do not depend on the batch.
  if (decode && p.activations != DType::kF32) {
    const int64_t blocks = static_cast<int64_t>(p.tokens) * p.kv_heads;
    const int64_t wanted = CeilDiv(4 * context.multiprocessors, blocks);
    const int64_t room = kPartialBytes / (static_cast<int64_t>(p.tokens) * p.q_heads *
                                          p.partial_stride * sizeof(float));
    p.splits = static_cast<int>(wanted < room ? wanted : room);
    if (p.splits < 1) p.splits = 1;
  }
  if (p.splits > 1) {
    p.partial = static_cast<float*>(context.Scratch(static_cast<size_t>(p.tokens) * p.q_heads *
                                                    p.splits * p.partial_stride * sizeof(float)));
  }
  const int64_t tiles = CeilDiv(p.tokens, per_tile) + (decode ? 0 : p.sequences);
  DispatchActivation(p.activations, [&](auto type) {
    const auto kernel = GeneralKernel<decltype(type)>;
    Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(context.max_shared_bytes)),
          "latent_attention");
    kernel<<<dim3(tiles, p.kv_heads, p.splits), kThreads, bytes, context.stream.get()>>>(p,
                                                                                         per_tile);
  });
  CheckLaunch("latent_attention");
  if (p.splits > 1) LaunchCombine(context, p);
}

}  // namespace palu::cuda
