// The fast decode kernel: one warp per query head, tokens sixteen at a time, keys never rebuilt.
//
// For one query the score of a cached token is q . R(position) U h. The rotation is linear in the
// cosines and sines of the position, so once per step and head the query is folded into the factor:
// Z [head_dim x rank] with score = ([cos | sin] Z) . h. The left operand is the same for all heads:
// a block stages it once per tile in shared memory for all its warps. Z stays in registers as the
// right operand of tensor-core products, latents go from the page through an asynchronous ring to
// the warps that need them, and only rank multiply-adds per token and head are left for the CUDA
// cores. Bytes, bound and measurements: docs/kernels/latent_decode.md.
#pragma once

#include "kernels/cuda/latent_decode_tile.cuh"
#include "kernels/cuda/latent_params.cuh"

namespace palu::cuda {

inline constexpr int kDecodeTile = 16;         // tokens
inline constexpr int kDecodeMaxBlocks = 2048;  // cache blocks of one split

// Where things lie in a block's shared memory, in bytes.
struct DecodeLayout {
  int32_t stages;  // of the ring
  int32_t stage_bytes;
  int32_t key_bytes;     // of one group in a stage
  int32_t key_scales;    // offset inside a group's key bytes
  int32_t values_begin;  // of the first value group in a stage
  int32_t value_stride;  // of a row
  int32_t value_bytes;
  int32_t value_scales;
  int32_t value_tiles;  // mma tiles of sixteen numbers
  int32_t parts;        // a group's rows are copied in this many pieces
  int32_t ring_begin;   // offset of the ring, behind the angles and block ids
};

// What a block works on.
struct DecodeWork {
  int sequence;
  int begin, end;       // cached tokens
  int first_block;      // index of the first entry of `blocks`
  int key_group, keys;  // groups that the block's heads use
  int value_group, values;
};

template <int kHeadDim>
inline constexpr int kAngleStride = kHeadDim * 2 + 16;  // bytes of a staged row of f16 angles

template <int kHeadDim>
inline constexpr int kAngleBytes = 2 * kDecodeTile* kAngleStride<kHeadDim>;

template <int kHeadDim, int kRank, int kValueTiles, int kWarps, bool kQuantized>
class DecodeBlock {
 public:
  __device__ DecodeBlock(const AttentionParams& p, const DecodeLayout& layout, uint8_t* memory)
      : p_(p), layout_(layout), memory_(memory) {
    warp_ = threadIdx.x / kWarp;
    lane_ = threadIdx.x % kWarp;
    head_ = blockIdx.y * kWarps + warp_;
    active_ = head_ < p.q_heads;
  }

  __device__ void Run() {
    if (FindWork()) {
      FoldQuery();
      __syncthreads();
      Loop();
    }
    Finish();
  }

 private:
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kKeyTiles = kRank / 8;
  static constexpr int kSteps = kHeadDim / 16;
  static constexpr int kAngleVectors = kDecodeTile * kHeadDim / 4;
  static constexpr int kAngleLoads = (kAngleVectors + kThreads - 1) / kThreads;
  static constexpr float kLog2e = 1.4426950408889634f;

  __device__ bool FindWork() {
    const int repeat = p_.q_heads / p_.kv_heads;
    const int first = blockIdx.y * kWarps / repeat;
    const int last = (min(static_cast<int>(blockIdx.y + 1) * kWarps, p_.q_heads) - 1) / repeat;
    work_.sequence = blockIdx.z;
    work_.key_group = first / p_.key.heads_per_group;
    work_.keys = last / p_.key.heads_per_group - work_.key_group + 1;
    work_.value_group = first / p_.value.heads_per_group;
    work_.values = last / p_.value.heads_per_group - work_.value_group + 1;
    const int head = min(head_, p_.q_heads - 1) / repeat;
    key_slot_ = head / p_.key.heads_per_group - work_.key_group;
    value_slot_ = head / p_.value.heads_per_group - work_.value_group;
    const SplitRange range =
        RangeOf(p_.context_lens[work_.sequence] - 1, p_.window, blockIdx.x, p_.splits, kDecodeTile);
    work_.begin = range.begin;
    work_.end = range.end;
    if (work_.begin >= work_.end) return false;
    work_.first_block = work_.begin / p_.block_size;
    const int blocks = (work_.end - 1) / p_.block_size - work_.first_block + 1;
    const int32_t* table = p_.block_tables + work_.sequence * p_.table_stride + work_.first_block;
    for (int i = threadIdx.x; i < blocks; i += kThreads) Blocks()[i] = table[i];
    return true;
  }

  // Z in registers: tile i, step s of the product with [cos | sin]; column c of tile i stands for
  // latent number (c / 2) * kRank / 4 + 2i + c % 2, so that a lane's accumulators match sixteen
  // consecutive bytes of a row.
  __device__ void FoldQuery() {
    const int head = min(head_, p_.q_heads - 1);
    const int kv_head = head / (p_.q_heads / p_.kv_heads);
    const SegmentView& segment = p_.key.groups[kv_head / p_.key.heads_per_group];
    const int in_group = kv_head % p_.key.heads_per_group;
    auto* factor = memory_ + layout_.ring_begin + warp_ * (kHeadDim * kRank * 2);
    const auto* from = static_cast<const uint8_t*>(segment.up) +
                       static_cast<int64_t>(in_group * kHeadDim) * segment.up_stride * 2;
    constexpr int kChunks = kRank / 8;
#pragma unroll 8
    for (int c = lane_; c < kHeadDim * kChunks; c += kWarp) {
      reinterpret_cast<uint4*>(factor)[c] = *reinterpret_cast<const uint4*>(
          from + (c / kChunks) * segment.up_stride * 2 + c % kChunks * 16);
    }
    __syncwarp();
    const auto* query = static_cast<const bf16*>(p_.q) + work_.sequence * p_.q_token_stride +
                        head * p_.q_head_stride;
    const int g = lane_ / 4;
    const int q = lane_ % 4;
    const int column = g / 2 * (kRank / 4) + g % 2;
    const float scale = p_.scale * kLog2e;
    const auto element = [&](int row, int i) {
      const int at = row * kRank + column + 2 * i;
      return segment.up_type == DType::kBF16 ? ToFloat(reinterpret_cast<const bf16*>(factor)[at])
                                             : ToFloat(reinterpret_cast<const __half*>(factor)[at]);
    };
#pragma unroll
    for (int s = 0; s < kSteps / 2; ++s) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int f = 16 * s + 8 * h + 2 * q;
        const float a0 = ToFloat(query[f]) * scale;
        const float a1 = ToFloat(query[f + 1]) * scale;
        const float b0 = ToFloat(query[f + kHeadDim / 2]) * scale;
        const float b1 = ToFloat(query[f + 1 + kHeadDim / 2]) * scale;
#pragma unroll
        for (int i = 0; i < kKeyTiles; ++i) {
          const float u0 = element(f, i);
          const float u1 = element(f + 1, i);
          const float v0 = element(f + kHeadDim / 2, i);
          const float v1 = element(f + 1 + kHeadDim / 2, i);
          z_[i][s][h] = PackF16(a0 * u0 + b0 * v0, a1 * u1 + b1 * v1);
          z_[i][s + kSteps / 2][h] = PackF16(b0 * u0 - a0 * v0, b1 * u1 - a1 * v1);
        }
      }
    }
  }

  __device__ void Loop() {
    const int first = work_.begin / kDecodeTile * kDecodeTile;
    const int tiles = (work_.end - first + kDecodeTile - 1) / kDecodeTile;
    float4 angles[kAngleLoads];
    LoadAngles(angles, first);
    StoreAngles(angles, 0);
    LoadAngles(angles, first + kDecodeTile);
    for (int t = 0; t < layout_.stages - 1; ++t) {
      if (t < tiles) CopyTile(first + t * kDecodeTile, t);
      CommitCopies();
    }
    int stage = 0;
    int next = layout_.stages - 1;
    for (int t = 0; t < tiles; ++t) {
      if (layout_.stages >= 6) {
        WaitCopies<4>();
      } else if (layout_.stages >= 4) {
        WaitCopies<2>();
      } else {
        WaitCopies<1>();
      }
      __syncthreads();
      const int token = first + t * kDecodeTile;
      if (t + layout_.stages - 1 < tiles) {
        CopyTile(token + (layout_.stages - 1) * kDecodeTile, next);
      }
      CommitCopies();
      StoreAngles(angles, (t + 1) & 1);
      LoadAngles(angles, token + 2 * kDecodeTile);
      if (active_) Compute(token, Stage(stage), t & 1);
      stage = stage + 1 == layout_.stages ? 0 : stage + 1;
      next = next + 1 == layout_.stages ? 0 : next + 1;
    }
    WaitCopies<0>();
  }

  // Cosines and sines of a tile's positions, kept in registers for a step, then staged as f16.
  __device__ void LoadAngles(float4 (&angles)[kAngleLoads], int token) {
#pragma unroll
    for (int i = 0; i < kAngleLoads; ++i) {
      const int at = threadIdx.x + i * kThreads;
      if (at >= kAngleVectors) return;
      const int position = min(token + at / (kHeadDim / 4), work_.end - 1);
      angles[i] = __ldg(reinterpret_cast<const float4*>(
          p_.cos_sin + static_cast<int64_t>(position) * kHeadDim + at % (kHeadDim / 4) * 4));
    }
  }

  __device__ void StoreAngles(const float4 (&angles)[kAngleLoads], int buffer) {
    uint8_t* base = memory_ + buffer * (kDecodeTile * kAngleStride<kHeadDim>);
#pragma unroll
    for (int i = 0; i < kAngleLoads; ++i) {
      const int at = threadIdx.x + i * kThreads;
      if (at >= kAngleVectors) return;
      const uint2 packed{PackF16(angles[i].x, angles[i].y), PackF16(angles[i].z, angles[i].w)};
      *reinterpret_cast<uint2*>(base + at / (kHeadDim / 4) * kAngleStride<kHeadDim> +
                                at % (kHeadDim / 4) * 8) = packed;
    }
  }

  // Starts the copies of a tile; each warp takes some (group, piece) pairs. A tile lies inside one
  // cache block, so a group's sixteen rows are contiguous there.
  __device__ void CopyTile(int token, int stage) {
    uint8_t* to = Stage(stage);
    const std::byte* block =
        p_.pool +
        static_cast<int64_t>(Blocks()[token / p_.block_size - work_.first_block]) * p_.block_bytes;
    const int offset = token % p_.block_size;
    const int items = (work_.keys + work_.values) * layout_.parts;
    for (int item = warp_; item < items; item += kWarps) {
      const int group = item / layout_.parts;
      const int part = item % layout_.parts;
      if (group < work_.keys) {
        const SegmentView& segment = p_.key.groups[work_.key_group + group];
        uint8_t* rows = to + group * layout_.key_bytes;
        CopyRows(segment, block, offset, rows, segment.row_bytes, part, token);
        if (kQuantized && part == 0) {
          CopyScales(segment, block, offset, rows + layout_.key_scales);
        }
      } else {
        const SegmentView& segment = p_.value.groups[work_.value_group + group - work_.keys];
        uint8_t* rows = to + layout_.values_begin + (group - work_.keys) * layout_.value_bytes;
        CopyRows(segment, block, offset, rows, layout_.value_stride, part, token);
        if (kQuantized && part == 0) {
          CopyScales(segment, block, offset, rows + layout_.value_scales);
        }
      }
    }
  }

  __device__ void CopyRows(const SegmentView& segment, const std::byte* block, int offset,
                           uint8_t* to, int stride, int part, int token) {
    const std::byte* from =
        block + segment.codes_offset + static_cast<int64_t>(offset) * segment.row_bytes;
    // Sixteen rows are row_bytes chunks of sixteen bytes.
    const int chunks = segment.row_bytes;
    const int end = chunks * (part + 1) / layout_.parts;
    if (kQuantized) {
      for (int c = chunks * part / layout_.parts + lane_; c < end; c += kWarp) {
        CopyAsync16(to + c * 16, from + c * 16, 16);
      }
      return;
    }
    // Rows past the end are zero: they may hold anything, and 0 * NaN is not 0.
    const int per_row = segment.row_bytes / 16;
    const uint32_t reciprocal = 65536 / per_row + 1;
    for (int c = chunks * part / layout_.parts + lane_; c < end; c += kWarp) {
      const int row = c * reciprocal >> 16;
      CopyAsync16(to + row * stride + (c - row * per_row) * 16, from + c * 16,
                  token + row < work_.end ? 16 : 0);
    }
  }

  __device__ void CopyScales(const SegmentView& segment, const std::byte* block, int offset,
                             uint8_t* to) {
    if (lane_ >= kDecodeTile * kScaleBytes / 16) return;
    CopyAsync16(to + lane_ * 16, block + segment.scales_offset + offset * kScaleBytes + lane_ * 16,
                16);
  }

  __device__ void Compute(int token, const uint8_t* stage, int buffer) {
    float s0, s1;
    Scores(stage, buffer, &s0, &s1);
    const int g = lane_ / 4;
    const int q = lane_ % 4;
    s0 = token + g >= work_.begin && token + g < work_.end ? s0 : -INFINITY;
    s1 = token + g + 8 >= work_.begin && token + g + 8 < work_.end ? s1 : -INFINITY;
    // From a token per row to this lane's tokens 2q, 2q + 1, 2q + 8, 2q + 9.
    float p0 = __shfl_sync(~0u, s0, 8 * q);
    float p1 = __shfl_sync(~0u, s0, 8 * q + 4);
    float p2 = __shfl_sync(~0u, s1, 8 * q);
    float p3 = __shfl_sync(~0u, s1, 8 * q + 4);
    float largest = fmaxf(fmaxf(p0, p1), fmaxf(p2, p3));
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
    if (largest == -INFINITY) return;
    if (largest > largest_) {
      const float rescale = exp2f(largest_ - largest);
      largest_ = largest;
      sum_ *= rescale;
      zero_ *= rescale;
#pragma unroll
      for (int m = 0; m < kValueTiles; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc_[m][i] *= rescale;
      }
    }
    p0 = exp2f(p0 - largest_);
    p1 = exp2f(p1 - largest_);
    p2 = exp2f(p2 - largest_);
    p3 = exp2f(p3 - largest_);
    const uint8_t* rows = stage + layout_.values_begin + value_slot_ * layout_.value_bytes;
    if constexpr (kQuantized) {
      AddQuantized(token, rows, p0, p1, p2, p3);
    } else {
      const uint32_t b0 = PackBF16(p0, p1);
      const uint32_t b1 = PackBF16(p2, p3);
      sum_ += LowBF16(b0) + HighBF16(b0) + LowBF16(b1) + HighBF16(b1);
      AddValuesBF16<kValueTiles>(acc_, layout_.value_tiles, rows, layout_.value_stride, lane_, b0,
                                 b1);
    }
  }

  // The token's scale goes into its weight, its zero is added up apart.
  __device__ void AddQuantized(int token, const uint8_t* rows, float p0, float p1, float p2,
                               float p3) {
    const int q = lane_ % 4;
    const auto* scales = reinterpret_cast<const uint2*>(rows + layout_.value_scales);
    const uint2 low = scales[q];
    const uint2 high = scales[q + 4];
    const auto pair = [](uint32_t bits) {
      return __half22float2(*reinterpret_cast<const __half2*>(&bits));
    };
    const float2 s0 = pair(low.x), s1 = pair(low.y), s2 = pair(high.x), s3 = pair(high.y);
    sum_ += p0 + p1 + p2 + p3;
    // Scales of tokens outside the range may be anything.
    const auto weight = [](float p, float x) { return p > 0.0f ? p * x : 0.0f; };
    const uint32_t b0 = PackBF16(weight(p0, s0.x), weight(p1, s1.x));
    const uint32_t b1 = PackBF16(weight(p2, s2.x), weight(p3, s3.x));
    const SegmentView& segment = p_.value.groups[work_.value_group];
    const float offset = segment.format == LatentFormat::kInt8 ? 0.0f : 128.0f;
    zero_ += weight(p0, s0.y) + weight(p1, s1.y) + weight(p2, s2.y) + weight(p3, s3.y) -
             offset * (LowBF16(b0) + HighBF16(b0) + LowBF16(b1) + HighBF16(b1));
    AddValueCodes<kValueTiles>(acc_, layout_.value_tiles, rows, layout_.value_stride,
                               segment.high_offset, segment.format, lane_, b0, b1);
  }

  // s0, s1: scores of tokens g and g + 8, in units of log 2.
  __device__ void Scores(const uint8_t* stage, int buffer, float* s0, float* s1) {
    float w[kKeyTiles][4] = {};
    const uint32_t angles = SharedAddress(
        memory_ +
        buffer * (kDecodeTile * kAngleStride<kHeadDim>)+(lane_ % 16) * kAngleStride<kHeadDim> +
        lane_ / 16 * 16);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      uint32_t a[4];
      LoadMatrices(a, angles + s * 32);
#pragma unroll
      for (int i = 0; i < kKeyTiles; ++i) MmaF16(w[i], a, z_[i][s][0], z_[i][s][1]);
    }
    const int g = lane_ / 4;
    const int q = lane_ % 4;
    const uint8_t* rows = stage + key_slot_ * layout_.key_bytes;
    const SegmentView& segment = p_.key.groups[work_.key_group];
    const uint8_t* row = rows + g * segment.row_bytes;
    if constexpr (kQuantized) {
      const auto* scales = reinterpret_cast<const __half2*>(rows + layout_.key_scales);
      *s0 = Dot<kRank>(w, 0, row, q, segment.format, scales[g]);
      *s1 = Dot<kRank>(w, 2, row + 8 * segment.row_bytes, q, segment.format, scales[g + 8]);
    } else {
      *s0 = DotBF16<kRank>(w, 0, row, q);
      *s1 = DotBF16<kRank>(w, 2, row + 8 * segment.row_bytes, q);
    }
    *s0 += __shfl_xor_sync(~0u, *s0, 1);
    *s1 += __shfl_xor_sync(~0u, *s1, 1);
    *s0 += __shfl_xor_sync(~0u, *s0, 2);
    *s1 += __shfl_xor_sync(~0u, *s1, 2);
  }

  // The partial result of this split, for the combine kernel.
  __device__ void Finish() {
    if (!active_) return;
    for (int mask = 1; mask <= 2; mask *= 2) {
      sum_ += __shfl_xor_sync(~0u, sum_, mask);
      zero_ += __shfl_xor_sync(~0u, zero_, mask);
    }
    float* part =
        p_.partial +
        ((static_cast<int64_t>(blockIdx.z) * p_.q_heads + head_) * p_.splits + blockIdx.x) *
            p_.partial_stride;
    if (lane_ == 0) {
      part[0] = largest_;
      part[1] = sum_;
    }
    const int g = lane_ / 4;
    const int q = lane_ % 4;
    const int rank = p_.value.groups[0].rank;
#pragma unroll
    for (int m = 0; m < kValueTiles; ++m) {
      if (m % 4 != q) continue;
      const int low = kQuantized ? m / 2 * 32 + 4 * g + m % 2 * 2 : 16 * m + g;
      const int high = kQuantized ? low + 1 : low + 8;
      if (low < rank) part[4 + low] = acc_[m][0] + zero_;
      if (high < rank) part[4 + high] = acc_[m][2] + zero_;
    }
  }

  __device__ int32_t* Blocks() const {
    return reinterpret_cast<int32_t*>(memory_ + kAngleBytes<kHeadDim>);
  }
  __device__ uint8_t* Stage(int i) const {
    return memory_ + layout_.ring_begin + i * layout_.stage_bytes;
  }

  const AttentionParams& p_;
  const DecodeLayout& layout_;
  uint8_t* memory_;
  DecodeWork work_;
  int warp_, lane_, head_;
  int key_slot_ = 0, value_slot_ = 0;
  bool active_;
  uint32_t z_[kKeyTiles][kSteps][2];
  float acc_[kValueTiles][4] = {};
  float largest_ = -INFINITY;
  float sum_ = 0;
  float zero_ = 0;
};

template <int kHeadDim, int kRank, int kValueTiles, int kWarps, bool kQuantized>
__global__ void __launch_bounds__(kWarps* kWarp, 1)
    DecodeKernel(__grid_constant__ const AttentionParams p,
                 __grid_constant__ const DecodeLayout layout) {
  extern __shared__ __align__(128) uint8_t memory[];
  DecodeBlock<kHeadDim, kRank, kValueTiles, kWarps, kQuantized>(p, layout, memory).Run();
}

}  // namespace palu::cuda
