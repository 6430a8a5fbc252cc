// Prefill attention: keys and values are rebuilt once per chunk into scratch memory
// (latent_rebuild.cu), then flash attention on tensor cores reads them. A block owns 64 or 128
// (query, head) pairs of one KV head, so that the query heads of a KV head share its tiles; scores,
// softmax and output stay in registers. docs/kernels/prefill.md.
#include <algorithm>
#include <vector>

#include "kernels/cuda/latent_prefill.cuh"
#include "kernels/cuda/mma.cuh"

namespace palu::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr float kLog2e = 1.4426950408889634f;

// kTiles: tiles of 16 rows per warp. kKeys: cached tokens at a time.
template <int kHeadDim, int kTiles, int kKeys>
struct Shape {
  static constexpr int kDim = kHeadDim;
  static constexpr int kRowTiles = kTiles;
  static constexpr int kTokens = kKeys;
  static constexpr int kRows = kWarps * kTiles * 16;
  static constexpr int kStride = kHeadDim + 8;  // keeps ldmatrix free of bank conflicts
  static constexpr size_t kBytes = (kRows + 4 * kKeys) * kStride * sizeof(bf16);
};

// What a block works on; rows are (query, head) pairs, heads innermost.
struct Work {
  const PrefillSequence* sequence;
  int first_row;
  int rows;       // of the sequence
  int repeat;     // query heads per KV head
  int first_pos;  // positions of the first and the last query of the block
  int last_pos;
  int begin, end;  // workspace tokens, from the sequence's first
};

__device__ Work FindWork(const AttentionParams& p, const PrefillBatch& batch, int tile, int rows,
                         int keys) {
  int s = 0;
  while (s + 1 < batch.count && tile >= batch.sequences[s + 1].query_tile) ++s;
  Work work;
  work.sequence = &batch.sequences[s];
  work.repeat = p.q_heads / p.kv_heads;
  work.first_row = (tile - work.sequence->query_tile) * rows;
  work.rows = work.sequence->queries * work.repeat;
  const int last_row = min(work.first_row + rows, work.rows) - 1;
  work.first_pos = work.sequence->position + work.first_row / work.repeat;
  work.last_pos = work.sequence->position + last_row / work.repeat;
  const int seen = p.window > 0 ? max(0, work.first_pos + 1 - p.window) : 0;
  work.begin = max(0, seen - work.sequence->first_token) / keys * keys;
  work.end = work.last_pos + 1 - work.sequence->first_token;
  return work;
}

template <typename S>
class Flash {
 public:
  __device__ Flash(const AttentionParams& p, const PrefillBatch& batch, const Work& work,
                   bf16* memory)
      : p_(p), work_(work), lane_(threadIdx.x % kWarp), warp_(threadIdx.x / kWarp) {
    q_ = memory;
    k_ = q_ + S::kRows * S::kStride;
    v_ = k_ + 2 * S::kTokens * S::kStride;
    const int64_t first = static_cast<int64_t>(work.sequence->row) * p.kv_heads + blockIdx.x;
    keys_ = batch.keys + first * S::kDim;
    values_ = batch.values + first * S::kDim;
  }

  __device__ void LoadQueries() {
    constexpr int kUnits = S::kDim / 8;
    for (int i = threadIdx.x; i < S::kRows * kUnits; i += kThreads) {
      const int row = work_.first_row + i / kUnits;
      const int d = i % kUnits * 8;
      const bool valid = row < work_.rows && d < p_.head_dim;
      const auto* from = static_cast<const bf16*>(p_.q);
      if (valid) {
        from += (work_.sequence->first_query + row / work_.repeat) * p_.q_token_stride +
                (blockIdx.x * work_.repeat + row % work_.repeat) * p_.q_head_stride + d;
      }
      CopyAsync16(SharedAddress(q_ + i / kUnits * S::kStride + d), from, valid ? 16 : 0);
    }
  }

  // Zeros past the sequence's end: a weight of zero times whatever lies there must be zero.
  __device__ void LoadTokens(int first, int stage) {
    constexpr int kUnits = S::kDim / 8;
    const int64_t stride = static_cast<int64_t>(p_.kv_heads) * S::kDim;
#pragma unroll
    for (int i = threadIdx.x; i < S::kTokens * kUnits; i += kThreads) {
      const int token = first + i / kUnits;
      const int d = i % kUnits * 8;
      const int valid = token < work_.sequence->tokens ? 16 : 0;
      const int64_t from = valid > 0 ? token * stride + d : 0;
      const int to = (stage * S::kTokens + i / kUnits) * S::kStride + d;
      CopyAsync16(SharedAddress(k_ + to), keys_ + from, valid);
      CopyAsync16(SharedAddress(v_ + to), values_ + from, valid);
    }
  }

  __device__ void Step(int first, int stage) {
    Scores(stage);
    const int token = work_.sequence->first_token + first;
    const bool beyond = token + S::kTokens - 1 > work_.first_pos;
    const bool before = p_.window > 0 && token <= work_.last_pos - p_.window;
    if (beyond || before) Mask(token);
    Softmax();
    AddValues(stage);
  }

  __device__ void Store() {
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float sum = sum_[m][h];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
        const int row = work_.first_row + RowOf(m, h);
        if (row >= work_.rows) continue;
        bf16* to = static_cast<bf16*>(p_.out) +
                   (work_.sequence->first_query + row / work_.repeat) * p_.out_token_stride +
                   (blockIdx.x * work_.repeat + row % work_.repeat) * p_.out_head_stride;
#pragma unroll
        for (int n = 0; n < S::kDim / 8; ++n) {
          const int d = n * 8 + lane_ % 4 * 2;
          if (d >= p_.head_dim) continue;
          *reinterpret_cast<uint32_t*>(to + d) =
              PackBF16(out_[m][n][2 * h] * inverse, out_[m][n][2 * h + 1] * inverse);
        }
      }
    }
  }

 private:
  static constexpr int kColumns = S::kTokens / 8;

  // Row of the block that this lane holds in half h of tile m.
  __device__ int RowOf(int m, int h) const {
    return (warp_ * S::kRowTiles + m) * 16 + h * 8 + lane_ / 4;
  }

  __device__ void Scores(int stage) {
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) score_[m][n][j] = 0.0f;
      }
    }
    const bf16* k = k_ + stage * S::kTokens * S::kStride;
    const uint32_t a_at =
        SharedAddress(q_ + (warp_ * S::kRowTiles * 16 + lane_ % 16) * S::kStride + lane_ / 16 * 8);
    const uint32_t b_at =
        SharedAddress(k + (lane_ / 16 * 8 + lane_ % 8) * S::kStride + lane_ / 8 % 2 * 8);
#pragma unroll
    for (int d = 0; d < S::kDim; d += 16) {
      uint32_t a[S::kRowTiles][4];
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
        LoadMatrices(a[m], a_at + (m * 16 * S::kStride + d) * sizeof(bf16));
      }
#pragma unroll
      for (int n = 0; n < kColumns; n += 2) {
        uint32_t b[4];
        LoadMatrices(b, b_at + (n * 8 * S::kStride + d) * sizeof(bf16));
#pragma unroll
        for (int m = 0; m < S::kRowTiles; ++m) {
          MmaBF16(score_[m][n], a[m], b[0], b[1]);
          MmaBF16(score_[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  __device__ void Mask(int token) {
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = work_.first_row + RowOf(m, h);
        const int position = work_.sequence->position + row / work_.repeat;
        const int oldest = p_.window > 0 ? position - p_.window : -1;
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int at = token + n * 8 + lane_ % 4 * 2 + j;
            if (at > position || at <= oldest) score_[m][n][2 * h + j] = -INFINITY;
          }
        }
      }
    }
  }

  // Scores become weights; what has been summed up so far is rescaled.
  __device__ void Softmax() {
    const float scale = p_.scale * kLog2e;
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float largest = largest_[m][h];
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
          largest = fmaxf(largest, fmaxf(score_[m][n][2 * h], score_[m][n][2 * h + 1]));
        }
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
        // Nothing seen yet: every weight is exp2(-inf) = 0.
        const float base = largest > -INFINITY ? largest * scale : 0.0f;
        const float rescale = exp2f(fmaf(largest_[m][h], scale, -base));
        largest_[m][h] = largest;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
#pragma unroll
          for (int j = 2 * h; j < 2 * h + 2; ++j) {
            score_[m][n][j] = exp2f(fmaf(score_[m][n][j], scale, -base));
            sum += score_[m][n][j];
          }
        }
        sum_[m][h] = sum_[m][h] * rescale + sum;
#pragma unroll
        for (int n = 0; n < S::kDim / 8; ++n) {
          out_[m][n][2 * h] *= rescale;
          out_[m][n][2 * h + 1] *= rescale;
        }
      }
    }
  }

  __device__ void AddValues(int stage) {
    const uint32_t b_at =
        SharedAddress(v_ + (stage * S::kTokens + lane_ % 16) * S::kStride + lane_ / 16 * 8);
#pragma unroll
    for (int n = 0; n < kColumns; n += 2) {
      uint32_t a[S::kRowTiles][4];
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
        a[m][0] = PackBF16(score_[m][n][0], score_[m][n][1]);
        a[m][1] = PackBF16(score_[m][n][2], score_[m][n][3]);
        a[m][2] = PackBF16(score_[m][n + 1][0], score_[m][n + 1][1]);
        a[m][3] = PackBF16(score_[m][n + 1][2], score_[m][n + 1][3]);
      }
#pragma unroll
      for (int d = 0; d < S::kDim; d += 16) {
        uint32_t b[4];
        LoadMatricesTransposed(b, b_at + (n * 8 * S::kStride + d) * sizeof(bf16));
#pragma unroll
        for (int m = 0; m < S::kRowTiles; ++m) {
          MmaBF16(out_[m][d / 8], a[m], b[0], b[1]);
          MmaBF16(out_[m][d / 8 + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  const AttentionParams& p_;
  const Work& work_;
  const int lane_, warp_;
  bf16 *q_, *k_, *v_;
  const bf16 *keys_, *values_;
  float score_[S::kRowTiles][kColumns][4];
  float out_[S::kRowTiles][S::kDim / 8][4] = {};
  float sum_[S::kRowTiles][2] = {};
  float largest_[S::kRowTiles][2];

 public:
  __device__ void Start() {
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) largest_[m][0] = largest_[m][1] = -INFINITY;
  }
};

// Blocks of many tokens come first, so that the last ones to run are short.
template <typename S>
__global__ void __launch_bounds__(kThreads)
    FlashKernel(__grid_constant__ const AttentionParams p,
                __grid_constant__ const PrefillBatch batch) {
  extern __shared__ __align__(16) char memory[];
  const int tile = gridDim.y - 1 - blockIdx.y;
  const Work work = FindWork(p, batch, tile, S::kRows, S::kTokens);
  Flash<S> flash(p, batch, work, reinterpret_cast<bf16*>(memory));
  flash.Start();
  flash.LoadQueries();
  flash.LoadTokens(work.begin, 0);
  CommitCopies();
  int stage = 0;
  for (int first = work.begin; first < work.end; first += S::kTokens) {
    if (first + S::kTokens < work.end) flash.LoadTokens(first + S::kTokens, stage ^ 1);
    CommitCopies();
    WaitCopies<1>();
    __syncthreads();
    flash.Step(first, stage);
    __syncthreads();
    stage ^= 1;
  }
  flash.Store();
}

template <typename S>
void LaunchFlash(Context& context, const AttentionParams& p, const PrefillBatch& batch, int tiles) {
  const auto kernel = FlashKernel<S>;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(S::kBytes)),
        "latent_prefill");
  kernel<<<dim3(p.kv_heads, tiles), kThreads, S::kBytes, context.stream.get()>>>(p, batch);
  CheckLaunch("latent_prefill");
}

// Calls fn with the Shape for this head_dim on this device.
template <typename Fn>
void DispatchShape(const Context& context, int head_dim, Fn&& fn) {
  using Large128 = Shape<128, 2, 64>;
  switch (PaddedHeadDim(head_dim)) {
    case 64:
      return fn(Shape<64, 2, 64>{});
    case 80:
      return fn(Shape<80, 2, 64>{});
    case 96:
      return fn(Shape<96, 2, 64>{});
    case 128:
      if (Large128::kBytes <= context.max_shared_bytes) return fn(Large128{});
      return fn(Shape<128, 2, 32>{});
    default:
      return fn(Shape<256, 1, 32>{});
  }
}

bool Serves(const AttentionParams& p) {
  if (p.activations != DType::kBF16 || p.head_dim % 8 != 0) return false;
  if (PaddedHeadDim(p.head_dim) == 0) return false;
  const auto aligned = [](const void* data, int64_t a, int64_t b) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && a % 8 == 0 && b % 8 == 0;
  };
  return aligned(p.q, p.q_token_stride, p.q_head_stride) &&
         aligned(p.out, p.out_token_stride, p.out_head_stride);
}

size_t RowBytes(int kv_heads, int head_dim) {
  return 2 * sizeof(bf16) * static_cast<size_t>(kv_heads) * PaddedHeadDim(head_dim);
}

// Sequence s of the batch, without its places in the pass.
PrefillSequence SequenceOf(const AttentionParams& p, const HostLengths& lengths, int s) {
  PrefillSequence sequence{};
  sequence.first_query = lengths.cu_seqlens[s];
  sequence.queries = lengths.cu_seqlens[s + 1] - lengths.cu_seqlens[s];
  sequence.position = lengths.context_lens[s] - sequence.queries;
  if (p.window > 0 && sequence.position + 1 > p.window) {
    sequence.first_token = sequence.position + 1 - p.window;
  }
  sequence.tokens = lengths.context_lens[s] - sequence.first_token;
  sequence.table = s;
  return sequence;
}

void RunPass(Context& context, const AttentionParams& p, PrefillBatch& batch) {
  const int repeat = p.q_heads / p.kv_heads;
  DispatchShape(context, p.head_dim, [&](auto shape) {
    using S = decltype(shape);
    int query_tiles = 0, rebuild_tiles = 0;
    for (int i = 0; i < batch.count; ++i) {
      PrefillSequence& sequence = batch.sequences[i];
      sequence.query_tile = query_tiles;
      sequence.rebuild_tile = rebuild_tiles;
      query_tiles += static_cast<int>(CeilDiv(int64_t{sequence.queries} * repeat, S::kRows));
      rebuild_tiles += static_cast<int>(CeilDiv(sequence.tokens, kRebuildTokens));
    }
    batch.values = batch.keys + static_cast<int64_t>(batch.rows) * p.kv_heads * S::kDim;
    LaunchRebuild(context, p, batch, rebuild_tiles);
    LaunchFlash<S>(context, p, batch, query_tiles);
  });
}

}  // namespace

size_t PrefillScratchBytes(const Context& context, const StepLimits& limits) {
  if (context.activations != DType::kBF16 || PaddedHeadDim(limits.max_head_dim) == 0) return 0;
  return limits.max_context * RowBytes(limits.max_kv_heads, limits.max_head_dim);
}

bool LaunchPrefill(Context& context, const AttentionParams& p, const HostLengths& lengths) {
  if (!Serves(p)) return false;
  std::vector<PrefillSequence> sequences;
  int64_t longest = 0;
  for (int s = 0; s < p.sequences; ++s) {
    const PrefillSequence sequence = SequenceOf(p, lengths, s);
    longest = std::max<int64_t>(longest, sequence.tokens);
    if (sequence.queries > 0) sequences.push_back(sequence);
  }
  const size_t row_bytes = RowBytes(p.kv_heads, p.head_dim);
  void* memory = context.Scratch(longest * row_bytes);
  const auto capacity = static_cast<int64_t>(context.scratch.bytes() / row_bytes);
  for (size_t next = 0; next < sequences.size();) {
    PrefillBatch batch{};
    batch.keys = static_cast<bf16*>(memory);
    while (next < sequences.size() && batch.count < kPrefillSequences &&
           batch.rows + sequences[next].tokens <= capacity) {
      PrefillSequence& sequence = batch.sequences[batch.count++] = sequences[next++];
      sequence.row = batch.rows;
      batch.rows += sequence.tokens;
    }
    RunPass(context, p, batch);
  }
  return true;
}

}  // namespace palu::cuda
