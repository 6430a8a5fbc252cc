// The fast decode kernel. Eight warps compute, a warp per KV head, tokens sixteen at a time in one
// pass: scores (decode_scores.cuh), online softmax, weights times value rows in latent space
// (decode_codes.cuh). Four warps copy latents and make angles, ahead of them, into a ring of
// stages (decode_copy.cuh). Bytes, bound, schedule and measurements: docs/kernels/latent_decode.md.
#pragma once

#include <type_traits>

#include "kernels/cuda/decode_bias.cuh"
#include "kernels/cuda/decode_copy.cuh"
#include "kernels/cuda/decode_scores.cuh"

namespace palu::cuda {

enum class KeyKind { kDense, kLowRank };

// Value rows of 81 to 96 numbers, but for bf16, have instances of their own: a number of tiles that
// is known when compiling keeps branches out of the inner loop.
inline constexpr int kExactLowRankTiles = 6;

// What an instance is compiled for. kBlocks: blocks of 32 numbers of a key row (low rank);
// kTiles: tiles of 16 numbers of a value row, at most or exactly; kSingle: one query head per KV
// head.
template <KeyKind kKeys, int kDim, int kBlocks, int kTiles, Numbers kHeld, bool kOne>
struct DecodeShape {
  static constexpr bool kLowRank = kKeys == KeyKind::kLowRank;
  static constexpr int kHeadDim = kDim;
  static constexpr int kKeyBlocks = kBlocks;
  static constexpr int kValueTiles = kTiles;
  static constexpr bool kExactTiles = !kLowRank || kTiles == kExactLowRankTiles;
  static constexpr Numbers kNumbers = kHeld;
  static constexpr bool kScaled = IsScaled(kHeld);
  static constexpr bool kSingle = kOne;
  // Units that a warp takes at once: two independent ones hide each other's latencies.
  static constexpr int kUnits =
      kTiles <= 8 && kHeld != Numbers::kCodes && (kHeld != Numbers::kBF16 || kLowRank) ? 2 : 1;
  static constexpr int kMostUnits = kHeld != Numbers::kBF16 || kUnits > 1 ? 4 : 2;  // of a stage
  using Scorer =
      std::conditional_t<!kLowRank, DenseScorer<kDim, kHeld, kOne>,
                         std::conditional_t<kOne, FoldedScorer<kDim, kBlocks, kHeld>,
                                            RebuildScorer<kLowRank ? kDim : 64, kBlocks, kHeld>>>;
};

// The ring's barriers, at the start of the block's memory: full, then empty, per stage.
class Ring {
 public:
  static constexpr int kBytes = 2 * kDecodeMaxStages * 8;

  __device__ Ring(uint8_t* memory, int stages) : base_(SharedAddress(memory)), stages_(stages) {}

  // A copying thread arrives twice: once its copies are done, and after what it wrote itself.
  __device__ void Init() const {
    for (int i = 0; i < stages_; ++i) {
      InitBarrier(Full(i), 2 * kCopyThreads);
      InitBarrier(Empty(i), kComputeThreads);
    }
    FenceBarrierInit();
  }

  __device__ int stage() const { return stage_; }
  __device__ uint32_t full() const { return Full(stage_); }
  __device__ void WaitFull() const { WaitBarrier(Full(stage_), parity_); }
  __device__ void WaitEmpty() const { WaitBarrier(Empty(stage_), parity_ ^ 1); }
  __device__ void Release() const { Arrive(Empty(stage_)); }
  __device__ void CommitCopies() const { ArriveAfterCopies(Full(stage_)); }
  __device__ void CommitStores() const { Arrive(Full(stage_)); }
  __device__ void Next() {
    if (++stage_ == stages_) {
      stage_ = 0;
      parity_ ^= 1;
    }
  }

 private:
  __device__ uint32_t Full(int i) const { return base_ + i * 8; }
  __device__ uint32_t Empty(int i) const { return base_ + (kDecodeMaxStages + i) * 8; }

  uint32_t base_;
  int stages_;
  int stage_ = 0;
  int parity_ = 0;
};

// Running weights and output of one KV head's query heads, in latent space. Lane (g, q) holds of
// tile m rows g and g + 8, columns 2q and 2q + 1. A column is a query head; with one query head,
// column n gathers the tokens n and n + 8 of every unit instead.
template <typename Shape>
class ValueSum {
 public:
  static constexpr int kTiles = Shape::kValueTiles;
  static constexpr int kUnits = Shape::kUnits;
  static constexpr bool kScaled = Shape::kScaled;
  static constexpr bool kBF16 = Shape::kNumbers == Numbers::kBF16;
  static constexpr bool kFp8 = Shape::kNumbers == Numbers::kFp8;
  static constexpr bool kSingle = Shape::kSingle;

  // The tokens of kUnits units: their value rows, scales and scores.
  struct Tokens {
    const uint8_t* rows[kUnits];
    const __half2* scales[kUnits];
    float score[kUnits][4];
  };

  __device__ void Add(const HeadView& head, const Tokens& tokens, int most_tiles, int lane) {
    const int tiles = Shape::kExactTiles ? kTiles : most_tiles;
    bool larger = false;
#pragma unroll
    for (int n = 0; n < kUnits; ++n) {
      const float(&score)[4] = tokens.score[n];
      larger |= fmaxf(score[0], score[2]) > limit_[0];
      if (!kSingle) larger |= fmaxf(score[1], score[3]) > limit_[1];
    }
    if (__any_sync(~0u, larger)) Rescale(tokens);
    WeighedRows<kUnits> values;
#pragma unroll
    for (int n = 0; n < kUnits; ++n) {
      values.rows[n] = tokens.rows[n];
      if constexpr (kSingle) {
        WeighSingle(head, tokens.score[n], tokens.scales[n], lane, &values.b0[n], &values.b1[n]);
      } else {
        WeighColumns(head, tokens.score[n], tokens.scales[n], lane, &values.b0[n], &values.b1[n]);
      }
    }
    if constexpr (kFp8) {
      AddValuesFp8(acc_, tiles, values, head.stride, lane);
    } else if constexpr (kScaled) {
      AddValueCodes<Shape::kNumbers == Numbers::kFour>(acc_, tiles, values, head.stride,
                                                       head.high_offset, head.format, lane);
    } else {
      AddValuesBF16(acc_, tiles, values, head.stride, lane);
    }
  }

  // Writes the partial result of a query head for the combine kernel: largest exponent, sum,
  // values.
  __device__ void Store(float* part, int64_t query_stride, int repeat, int rank, int lane) {
    const int g = lane / 4;
    const int q = lane % 4;
#pragma unroll
    for (int c = 0; c < (kSingle ? 1 : 2); ++c) {
      for (int mask = kSingle ? 1 : 4; mask <= 16; mask *= 2) {
        sum_[c] += __shfl_xor_sync(~0u, sum_[c], mask);
        zero_[c] += __shfl_xor_sync(~0u, zero_[c], mask);
      }
      const int column = kSingle ? 0 : 2 * q + c;
      float* to = part + column * query_stride;
      const bool mine = kSingle ? q == 0 : column < repeat;
      if (mine && g == 0) {
        to[0] = largest_[c];
        to[1] = sum_[c];
      }
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        float low = acc_[m][c];
        float high = acc_[m][c + 2];
        if constexpr (kSingle) {
          low += acc_[m][1];
          high += acc_[m][3];
          for (int mask = 1; mask <= 2; mask *= 2) {
            low += __shfl_xor_sync(~0u, low, mask);
            high += __shfl_xor_sync(~0u, high, mask);
          }
        }
        const int first = kBF16 ? 16 * m + g : m / 2 * 32 + 4 * g + m % 2 * 2;
        const int second = kBF16 ? first + 8 : first + 1;
        if (mine && first < rank) to[4 + first] = low + zero_[c];
        if (mine && second < rank) to[4 + second] = high + zero_[c];
      }
    }
  }

 private:
  static constexpr float kSlack = 8.0f;  // exponents that weights may exceed 2^kLargest by
  // Exponent of the largest weight. f16 has fewer bits for weights below 2^-14 and none below
  // 2^-25; it ends at 2^16, which kSlack must leave out.
  static constexpr float kLargest = kFp8 ? 7.0f : 0.0f;

  // Rare: only where a score exceeds the largest so far by kSlack.
  __device__ void Rescale(const Tokens& tokens) {
    float factor[2];
#pragma unroll
    for (int c = 0; c < (kSingle ? 1 : 2); ++c) {
      float largest = -INFINITY;
#pragma unroll
      for (int n = 0; n < kUnits; ++n) {
        largest = fmaxf(largest, fmaxf(tokens.score[n][c], tokens.score[n][c + 2]));
      }
      for (int mask = kSingle ? 1 : 4; mask <= 16; mask *= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, mask));
      }
      const float now = fmaxf(largest_[c], largest - kLargest);
      factor[c] = exp2f(largest_[c] - now);
      largest_[c] = now;
      limit_[c] = now + (kLargest + kSlack);
      sum_[c] *= factor[c];
      zero_[c] *= factor[c];
    }
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc_[m][i] *= factor[kSingle ? 0 : i % 2];
    }
  }

  // The token's scale goes into its weight, its zero is added up apart.
  __device__ uint32_t Weigh(float weight, float2 scale, float offset) {
    const uint32_t bits = PackBF16(weight * scale.x, 0.0f);
    zero_[0] += weight * scale.y - offset * LowBF16(bits);
    return bits;
  }

  __device__ void WeighSingle(const HeadView& head, const float (&score)[4], const __half2* scales,
                              int lane, uint32_t* b0, uint32_t* b1) {
    const int shift = lane / 4 % 2 * 16;
    const float low = exp2f(score[0] - largest_[0]);
    const float high = exp2f(score[2] - largest_[0]);
    sum_[0] += low + high;
    if constexpr (kScaled) {
      const float offset = CodeOffset(head.format);
      *b0 = Weigh(low, __half22float2(scales[lane / 4]), offset) << shift;
      *b1 = Weigh(high, __half22float2(scales[lane / 4 + 8]), offset) << shift;
    } else {
      *b0 = Pack<kFp8>(low, 0.0f) << shift;
      *b1 = Pack<kFp8>(high, 0.0f) << shift;
    }
  }

  __device__ void WeighColumns(const HeadView& head, const float (&score)[4], const __half2* scales,
                               int lane, uint32_t* b0, uint32_t* b1) {
    float weight[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      weight[i] = exp2f(score[i] - largest_[i % 2]);
      sum_[i % 2] += weight[i];
    }
    uint32_t low, high;
    if constexpr (kScaled) {
      const float2 first = __half22float2(scales[lane / 4]);
      const float2 second = __half22float2(scales[lane / 4 + 8]);
      const float offset = CodeOffset(head.format);
      low = PackBF16(weight[0] * first.x, weight[1] * first.x);
      high = PackBF16(weight[2] * second.x, weight[3] * second.x);
      zero_[0] +=
          weight[0] * first.y + weight[2] * second.y - offset * (LowBF16(low) + LowBF16(high));
      zero_[1] +=
          weight[1] * first.y + weight[3] * second.y - offset * (HighBF16(low) + HighBF16(high));
    } else {
      low = Pack<kFp8>(weight[0], weight[1]);
      high = Pack<kFp8>(weight[2], weight[3]);
    }
    *b0 = Transpose(low);
    *b1 = Transpose(high);
  }

  float acc_[kTiles][4] = {};
  // Finite, so that exponents of masked tokens stay numbers.
  float largest_[2] = {-1e30f, -1e30f};
  float limit_[2] = {-1e30f, -1e30f};
  float sum_[2] = {};
  float zero_[2] = {};
};

// A computing warp.
template <typename Shape>
class DecodeWarp {
 public:
  __device__ DecodeWarp(const AttentionParams& p, const DecodeLayout& layout, uint8_t* memory)
      : p_(p), layout_(layout), memory_(memory), scope_(p, layout) {
    lane_ = threadIdx.x % kWarp;
    const int warp = threadIdx.x / kWarp;
    slot_ = warp % layout.heads;
    stream_ = warp / layout.heads;
    head_ = scope_.first_head + slot_;
    active_ = head_ < p.kv_heads && stream_ < layout.streams;
    if (!active_) head_ = p.kv_heads - 1;
    key_rows_ = RowsBegin(layout.key, p.key, scope_.key_group);
    key_scales_ = ScalesBegin(layout.key, p.key, scope_.key_group);
    value_rows_ = RowsBegin(layout.value, p.value, scope_.value_group);
    value_scales_ = ScalesBegin(layout.value, p.value, scope_.value_group);
  }

  __device__ void Run(Ring ring, SplitRange range) {
    const int repeat = p_.q_heads / p_.kv_heads;
    const HeadView key = KeyView(repeat);
    HeadView value{};
    value.segment = &p_.value.groups[head_ / p_.value.heads_per_group];
    value.format = p_.value.groups[0].format;
    value.high_offset = p_.value.groups[0].high_offset;
    value.stride = layout_.value.stride;
    uint8_t* factor = memory_ + layout_.factor_begin + slot_ * Shape::Scorer::kFactorBytes;
    const bool writer = active_ && stream_ == 0;
    scorer_.Prepare(key, factor, writer, lane_);
    AwaitPrevious();
    scorer_.Load(key, factor, writer, lane_);
    bias_ = memory_ + layout_.bias_begin + slot_ * layout_.bias_bytes;
    if constexpr (Shape::kLowRank) {
      if (writer && layout_.bias_bytes > 0) {
        Bias::Fold(key, p_.key_bias, p_.key_bias_type, head_ * p_.head_dim, bias_, lane_);
      }
    }
    if (Shape::Scorer::kFactorBytes + layout_.bias_bytes > 0) SyncThreads(1, kComputeThreads);

    const int tokens = layout_.units * kDecodeUnit;
    for (int token = range.begin / tokens * tokens; token < range.end; token += tokens) {
      ring.WaitFull();
      const uint8_t* stage = memory_ + layout_.ring_begin + ring.stage() * layout_.stage_bytes;
      for (int u = stream_; u < layout_.units && active_; u += Shape::kUnits * layout_.streams) {
        if (token + u * kDecodeUnit < range.end) Units(key, value, stage, u, token, range);
      }
      ring.Release();
      ring.Next();
    }
    if (!active_) return;
    const int64_t row = static_cast<int64_t>(blockIdx.z) * p_.q_heads + head_ * repeat;
    const int64_t stride = static_cast<int64_t>(p_.splits) * p_.partial_stride;
    float* part = p_.partial + row * stride +
                  static_cast<int64_t>(blockIdx.x * layout_.streams + stream_) * p_.partial_stride;
    sum_.Store(part, stride, repeat, p_.value.dense ? p_.head_dim : value.segment->rank, lane_);
  }

 private:
  using Bias = BiasScorer<Shape::kHeadDim, Shape::Scorer::kByRows>;

  __device__ HeadView KeyView(int repeat) const {
    HeadView key;
    key.segment = &p_.key.groups[head_ / p_.key.heads_per_group];
    key.query = static_cast<const bf16*>(p_.q) + blockIdx.z * p_.q_token_stride +
                head_ * repeat * p_.q_head_stride;
    key.query_stride = p_.q_head_stride;
    key.format = p_.key.groups[0].format;
    key.rank = p_.key.groups[0].rank;
    key.high_offset = p_.key.groups[0].high_offset;
    key.first_row = head_ % p_.key.heads_per_group * p_.head_dim;
    key.repeat = repeat;
    key.scale = p_.scale * kLog2e;
    key.stride = layout_.key.stride;
    return key;
  }

  // Where this warp's head has its rows in a stage, and its group the scales.
  __device__ int RowsBegin(const SideLayout& side, const ProjectionView& projection,
                           int first_group) const {
    const int group = head_ / projection.heads_per_group - first_group;
    const int in_row = head_ % projection.heads_per_group;
    return side.begin + group * side.group_bytes + in_row * side.head_bytes;
  }
  __device__ int ScalesBegin(const SideLayout& side, const ProjectionView& projection,
                             int first_group) const {
    const int group = head_ / projection.heads_per_group - first_group;
    return side.begin + group * side.group_bytes + side.scales;
  }

  // Unit u of the stage that begins at `token`, and those that this warp takes with it.
  __device__ void Units(const HeadView& key, const HeadView& value, const uint8_t* stage, int u,
                        int token, const SplitRange& range) {
    constexpr int kUnits = Shape::kUnits;
    typename ValueSum<Shape>::Tokens tokens;
    UnitView units[kUnits];
    int first[kUnits];
#pragma unroll
    for (int n = 0; n < kUnits; ++n) {
      const int own = u + n * layout_.streams;
      // A unit that the stage does not have is computed on another one's rows and masked.
      const int row = (own < layout_.units ? own : u) * kDecodeUnit;
      first[n] = own < layout_.units ? token + row : range.end;
      units[n].keys = stage + key_rows_ + row * layout_.key.stride;
      units[n].scales = reinterpret_cast<const __half2*>(stage + key_scales_) + row;
      units[n].angles = stage + layout_.angles_begin +
                        row * kAngleStride<Shape::kHeadDim, Shape::Scorer::kByRows>;
      scorer_.Score(key, units[n], lane_, tokens.score[n]);
      tokens.rows[n] = stage + value_rows_ + row * layout_.value.stride;
      tokens.scales[n] = reinterpret_cast<const __half2*>(stage + value_scales_) + row;
    }
    if constexpr (Shape::kLowRank) {
      if (layout_.bias_bytes > 0) {
#pragma unroll
        for (int n = 0; n < kUnits; ++n) {
          Bias::Add(bias_, key.repeat, units[n], lane_, tokens.score[n]);
        }
      }
    }
    const int g = lane_ / 4;
    if (first[0] < range.begin || first[kUnits - 1] + kDecodeUnit > range.end) {
#pragma unroll
      for (int n = 0; n < kUnits; ++n) Mask(first[n] + g, range, tokens.score[n]);
    }
    if (Shape::kSingle && lane_ % 4 != g / 2) {
#pragma unroll
      for (int n = 0; n < kUnits; ++n) tokens.score[n][0] = tokens.score[n][2] = -INFINITY;
    }
    sum_.Add(value, tokens, layout_.value_tiles, lane_);
  }

  __device__ static void Mask(int token, const SplitRange& range, float (&score)[4]) {
    if (token < range.begin || token >= range.end) score[0] = score[1] = -INFINITY;
    if (token + 8 < range.begin || token + 8 >= range.end) score[2] = score[3] = -INFINITY;
  }

  const AttentionParams& p_;
  const DecodeLayout& layout_;
  uint8_t* memory_;
  uint8_t* bias_;  // of this warp's head, folded
  BlockScope scope_;
  int lane_, slot_, stream_, head_;
  int key_rows_, key_scales_, value_rows_, value_scales_;  // offsets in a stage
  bool active_;
  typename Shape::Scorer scorer_;
  ValueSum<Shape> sum_;
};

// A copying warp: latents of a stage, then its angles while the copies are under way. Of what it
// reads only the newest token is written by this step, so that only its stage awaits the kernels
// before.
template <typename Shape>
__device__ void CopyLatents(const AttentionParams& p, const DecodeLayout& layout, uint8_t* memory,
                            Ring ring, SplitRange range, int context) {
  using Angles = AngleWriter<Shape::kHeadDim, Shape::Scorer::kByRows, Shape::kMostUnits>;
  const int thread = threadIdx.x - kComputeThreads;
  const StageCopier<Shape::kScaled> copier(p, layout, thread, range);
  const int tokens = layout.units * kDecodeUnit;
  const int first = range.begin / tokens * tokens;
  int blocks = copier.FetchBlocks(first);
  Angles angles;
  for (int token = first; token < range.end; token += tokens) {
    uint8_t* stage = memory + layout.ring_begin + ring.stage() * layout.stage_bytes;
    ring.WaitEmpty();
    if (token + tokens >= context) AwaitPrevious();
    copier.Copy(token, blocks, SharedAddress(stage), ring.full());
    ring.CommitCopies();
    blocks = copier.FetchBlocks(token + tokens);
    if constexpr (Shape::kLowRank) {
      if (token == first) {
        angles.Init(p.cos_sin, thread);
        angles.Fetch(first, min(range.end, first + tokens));
      }
      angles.Store(stage + layout.angles_begin, layout.units);
      angles.Fetch(token + tokens, min(range.end, token + 2 * tokens));
    }
    ring.CommitStores();
    ring.Next();
  }
}

template <typename Shape>
__global__ void __launch_bounds__(kDecodeThreads, 1)
    DecodeKernel(__grid_constant__ const AttentionParams p,
                 __grid_constant__ const DecodeLayout layout) {
#if __CUDA_ARCH__ >= 900  // elsewhere it is never launched
  extern __shared__ __align__(128) uint8_t memory[];
  AdmitNext();
  const int context = p.context_lens[blockIdx.z];
  const SplitRange range = RangeOf(context - 1, p.window, blockIdx.x, p.splits / layout.streams,
                                   layout.units * kDecodeUnit);
  const Ring ring(memory, layout.stages);
  if (threadIdx.x == 0) ring.Init();
  if (layout.clear_ring) {
    auto* words = reinterpret_cast<uint4*>(memory + layout.ring_begin);
    const int count = layout.stages * layout.stage_bytes / 16;
    for (int i = threadIdx.x; i < count; i += kDecodeThreads) words[i] = uint4{};
    FenceBulkCopies();
  }
  __syncthreads();
  if (threadIdx.x >= kComputeThreads) {
    GiveRegisters<kCopyRegisters>();
    CopyLatents<Shape>(p, layout, memory, ring, range, context);
  } else {
    TakeRegisters<kComputeRegisters>();
    DecodeWarp<Shape>(p, layout, memory).Run(ring, range);
  }
#endif
}

}  // namespace palu::cuda
