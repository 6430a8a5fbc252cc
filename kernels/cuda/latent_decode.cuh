// The fast decode kernel: a warp per KV head, tokens sixteen at a time, one pass.
//
// Keys are rebuilt on tensor cores with the head's factor in registers (or in the lane's own words
// of shared memory), turned by angles that all heads of the block share, and scored against all
// query heads of the KV head in one product; weights go straight into the product with the value
// latents. Latents and angles come through a ring of asynchronous copies. Nothing but the running
// output, in latent space, survives a tile. Bytes, bound, schedule and measurements:
// docs/kernels/latent_decode.md.
#pragma once

#include "kernels/cuda/latent_decode_tile.cuh"
#include "kernels/cuda/latent_params.cuh"

namespace palu::cuda {

inline constexpr int kDecodeUnit = 16;  // tokens that a warp takes at a time
inline constexpr int kDecodeWarps = 8;
inline constexpr int kDecodeThreads = kDecodeWarps * kWarp;
inline constexpr int kDecodeMaxStreams = 2;
inline constexpr int kDecodeMaxStages = 4;
inline constexpr int kDecodeMaxBlocks = 2048;  // cache blocks of one split
inline constexpr int kMaxRepeat = 8;           // query heads per KV head

// Where things lie in a block's shared memory, in bytes, and how its warps share the work.
struct DecodeLayout {
  int32_t heads;    // KV heads of a block
  int32_t streams;  // warps of a KV head; they take units in turn
  int32_t stages;   // of the ring
  int32_t stage_bytes;
  int32_t unit_bytes;    // of sixteen tokens in a stage
  int32_t key_bytes;     // of one group in a unit
  int32_t key_scales;    // offset inside a group's key bytes
  int32_t values_begin;  // of the first value group in a unit
  int32_t value_stride;  // of a row
  int32_t value_bytes;
  int32_t value_scales;
  int32_t value_tiles;   // mma tiles of sixteen numbers
  int32_t angles_begin;  // in a stage
  int32_t plan_begin;
  int32_t chunks;  // of sixteen bytes that a unit's latents take
  int32_t factor_begin;
  int32_t ring_begin;
  int32_t block_shift;  // log 2 of the tokens of a cache block
};

// One sixteen-byte copy of a unit's latents, the same for every unit but for the block and the
// offset in it.
struct CopyPlan {
  int32_t from;  // bytes from the start of a block, for its first token
  int16_t to;    // sixteenths of bytes from the start of the unit in the stage
  int8_t kind;   // 0: key rows, 1: value rows, 2: scales; tells the bytes per token
  int8_t row;    // copied only if this token of the unit exists
};

// Bytes of a staged row of angles; the rest keeps eight lanes' reads apart.
template <int kHeadDim>
inline constexpr int kAngleStride = kHeadDim * 4 + 64;

template <int kHeadDim, int kRank, int kValueTiles, bool kQuantized>
class DecodeBlock {
 public:
  __device__ DecodeBlock(const AttentionParams& p, const DecodeLayout& layout, uint8_t* memory)
      : p_(p), layout_(layout), memory_(memory) {
    warp_ = threadIdx.x / kWarp;
    lane_ = threadIdx.x % kWarp;
    repeat_ = p.q_heads / p.kv_heads;
    first_head_ = blockIdx.y * layout.heads;
    head_ = first_head_ + warp_ % layout.heads;
    stream_ = warp_ / layout.heads;
    active_ = head_ < p.kv_heads && stream_ < layout.streams;
    if (!active_) head_ = p.kv_heads - 1;
  }

  __device__ void Run() {
    if (FindWork()) {
      PlanCopies();
      LoadFactor();
      LoadQuery();
      __syncthreads();
      Loop();
    }
    Finish();
  }

 private:
  static constexpr int kHalfTiles = kHeadDim / 16;  // key tiles of eight dims in half a head
  static constexpr int kChunks = kRank / 32;        // eight-number loads of a lane
  static constexpr bool kFactorInRegisters = kRank == 32;
  static constexpr int kCopyBatch = 4;  // plans read at a time
  static constexpr float kLog2e = 1.4426950408889634f;

  __device__ bool FindWork() {
    const int last = min(first_head_ + layout_.heads, p_.kv_heads) - 1;
    key_group_ = first_head_ / p_.key.heads_per_group;
    keys_ = last / p_.key.heads_per_group - key_group_ + 1;
    value_group_ = first_head_ / p_.value.heads_per_group;
    values_ = last / p_.value.heads_per_group - value_group_ + 1;
    const SplitRange range = RangeOf(p_.context_lens[blockIdx.z] - 1, p_.window, blockIdx.x,
                                     p_.splits / layout_.streams, kDecodeUnit * layout_.streams);
    begin_ = range.begin;
    end_ = range.end;
    if (begin_ >= end_) return false;
    first_block_ = begin_ >> layout_.block_shift;
    const int blocks = ((end_ - 1) >> layout_.block_shift) - first_block_ + 1;
    const int32_t* table = p_.block_tables + blockIdx.z * p_.table_stride + first_block_;
    for (int i = threadIdx.x; i < blocks; i += kDecodeThreads) Blocks()[i] = table[i];
    return true;
  }

  // A group's sixteen rows are contiguous in the page; bf16 value rows are padded in the stage
  // against bank conflicts, and those past the end are zeros: they may hold anything, and 0 * NaN
  // is not 0.
  __device__ void PlanCopies() {
    const int per_key = p_.key.groups[0].row_bytes + (kQuantized ? kScaleBytes : 0);
    const int per_value = p_.value.groups[0].row_bytes + (kQuantized ? kScaleBytes : 0);
    const int per_unit = keys_ * per_key + values_ * per_value;
    chunks_ = per_unit;
    for (int i = threadIdx.x; i < chunks_; i += kDecodeThreads) {
      int chunk = i;
      const bool key = chunk < keys_ * per_key;
      if (!key) chunk -= keys_ * per_key;
      const int group = chunk / (key ? per_key : per_value);
      chunk %= key ? per_key : per_value;
      const SegmentView& segment =
          key ? p_.key.groups[key_group_ + group] : p_.value.groups[value_group_ + group];
      CopyPlan plan;
      plan.row = 0;
      plan.kind = key ? 0 : 1;
      plan.from = segment.codes_offset + chunk * 16;
      int to = key ? group * layout_.key_bytes : layout_.values_begin + group * layout_.value_bytes;
      if (chunk >= segment.row_bytes) {
        chunk -= segment.row_bytes;
        plan.from = segment.scales_offset + chunk * 16;
        plan.kind = 2;
        to += (key ? layout_.key_scales : layout_.value_scales) + chunk * 16;
      } else if (kQuantized || key) {
        to += chunk * 16;
      } else {
        const int per_row = segment.row_bytes / 16;
        plan.row = chunk / per_row;
        to += plan.row * layout_.value_stride + chunk % per_row * 16;
      }
      plan.to = to / 16;
      Plans()[i] = plan;
    }
  }

  // The factor as right operands. Column c of tile j stands for dim (c / 2) * kHeadDim / 8 + 2j +
  // c % 2 of its half, so that a lane's angles are consecutive.
  __device__ void LoadFactor() {
    const SegmentView& segment = p_.key.groups[head_ / p_.key.heads_per_group];
    const int g = lane_ / 4;
    const int row = head_ % p_.key.heads_per_group * kHeadDim + g / 2 * (kHeadDim / 8) + g % 2;
    const auto* from = static_cast<const uint8_t*>(segment.up) +
                       (row * segment.up_stride + lane_ % 4 * (kQuantized ? kRank / 4 : 2)) * 2;
#pragma unroll
    for (int j = 0; j < 2 * kHalfTiles; ++j) {
      const int dim = j % kHalfTiles * 2 + j / kHalfTiles * (kHeadDim / 2);
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const uint8_t* at = from + dim * segment.up_stride * 2;
        uint4 eight;
        if constexpr (kQuantized) {
          eight = *reinterpret_cast<const uint4*>(at + c * 16);
          if (segment.up_type == DType::kBF16) {
            const auto convert = [](uint32_t x) { return PackF16(LowBF16(x), HighBF16(x)); };
            eight = {convert(eight.x), convert(eight.y), convert(eight.z), convert(eight.w)};
          }
        } else {
          const auto* pairs = reinterpret_cast<const uint32_t*>(at + c * 64);
          eight = {pairs[0], pairs[4], pairs[8], pairs[12]};
        }
        if constexpr (kFactorInRegisters) {
          factor_[j] = eight;
        } else if (stream_ == 0) {
          Factor(j, c) = eight;
        }
      }
    }
  }

  // Query heads as right operands, zero past the last; in units that make the softmax a power of 2.
  __device__ void LoadQuery() {
    const int g = lane_ / 4;
    const auto* query = static_cast<const bf16*>(p_.q) + blockIdx.z * p_.q_token_stride +
                        (head_ * repeat_ + min(g, repeat_ - 1)) * p_.q_head_stride +
                        lane_ % 4 * (kHeadDim / 8);
    const float scale = g < repeat_ ? p_.scale * kLog2e : 0.0f;
#pragma unroll
    for (int s = 0; s < kHalfTiles; ++s) {
      const bf16* from = query + s % (kHalfTiles / 2) * 4 + s / (kHalfTiles / 2) * (kHeadDim / 2);
      query_[s][0] = PackF16(ToFloat(from[0]) * scale, ToFloat(from[1]) * scale);
      query_[s][1] = PackF16(ToFloat(from[2]) * scale, ToFloat(from[3]) * scale);
    }
  }

  __device__ void Loop() {
    const int tile = kDecodeUnit * layout_.streams;
    const int first = begin_ / tile * tile;
    const int tiles = (end_ - first + tile - 1) / tile;
    const int ahead = layout_.stages - 1;
    for (int t = 0; t < ahead; ++t) {
      if (t < tiles) CopyTile(first + t * tile, t);
      CommitCopies();
    }
    int stage = 0;
    for (int t = 0; t < tiles; ++t) {
      const int token = first + t * tile;
      if (ahead == 3) {
        WaitCopies<2>();
      } else if (ahead == 2) {
        WaitCopies<1>();
      } else {
        WaitCopies<0>();
      }
      __syncthreads();
      if (t + ahead < tiles) CopyTile(token + ahead * tile, stage == 0 ? ahead : stage - 1);
      CommitCopies();
      const int unit = token + stream_ * kDecodeUnit;
      if (active_ && unit < end_ && unit + kDecodeUnit > begin_) Compute(unit, Stage(stage));
      if (++stage == layout_.stages) stage = 0;
    }
    WaitCopies<0>();
  }

  __device__ void CopyTile(int token, int stage) {
    const uint32_t to = SharedAddress(Stage(stage));
    for (int u = 0; u < layout_.streams; ++u) {
      CopyUnit(token + u * kDecodeUnit, to + u * layout_.unit_bytes);
    }
    // Rows of cosines and sines; a lane's four chunks of a half are spread, so that four lanes read
    // 64 bytes in a row.
    constexpr int kPerRow = kHeadDim / 4;
    constexpr int kPerLane = kPerRow / 8;
    for (int i = threadIdx.x; i < kDecodeUnit * layout_.streams * kPerRow; i += kDecodeThreads) {
      const int row = i / kPerRow;
      const int chunk = i % kPerRow;
      const int position = min(token + row, end_ - 1);
      const int in_half = chunk % (kPerRow / 2);
      const int place = chunk - in_half + in_half % kPerLane * 4 + in_half / kPerLane;
      CopyAsync16(to + layout_.angles_begin + row * kAngleStride<kHeadDim> + place * 16,
                  p_.cos_sin + static_cast<int64_t>(position) * kHeadDim + chunk * 4, 16);
    }
  }

  __device__ void CopyUnit(int token, uint32_t to) {
    const int rows = end_ - token;
    if (rows <= 0 || token + kDecodeUnit <= begin_) return;
    const int offset = token & (p_.block_size - 1);
    const std::byte* block =
        p_.pool + static_cast<int64_t>(Blocks()[(token >> layout_.block_shift) - first_block_]) *
                      p_.block_bytes;
    const int keys = offset * p_.key.groups[0].row_bytes;
    const int values = offset * p_.value.groups[0].row_bytes;
    const int scales = offset * kScaleBytes;
    for (int first = threadIdx.x; first < chunks_; first += kCopyBatch * kDecodeThreads) {
      int2 plan[kCopyBatch];
#pragma unroll
      for (int i = 0; i < kCopyBatch; ++i) {
        const int at = first + i * kDecodeThreads;
        plan[i] = at < chunks_ ? *reinterpret_cast<const int2*>(Plans() + at) : int2{0, 0};
      }
#pragma unroll
      for (int i = 0; i < kCopyBatch; ++i) {
        if (first + i * kDecodeThreads >= chunks_) break;
        const int kind = plan[i].y >> 16 & 0xff;
        int from = plan[i].x + (kind == 0 ? keys : values);
        if (kQuantized && kind == 2) from = plan[i].x + scales;
        // No branch: rows past the end become zeros.
        CopyAsync16(to + (plan[i].y & 0xffff) * 16, block + from, plan[i].y >> 24 < rows ? 16 : 0);
      }
    }
  }

  __device__ void Compute(int token, const uint8_t* stage) {
    const uint8_t* unit = stage + stream_ * layout_.unit_bytes;
    float score[4];
    Scores(unit,
           stage + layout_.angles_begin +
               (stream_ * kDecodeUnit + lane_ / 4) * kAngleStride<kHeadDim> + lane_ % 4 * 16,
           score);
    const int g = lane_ / 4;
    if (token + g < begin_ || token + g >= end_) score[0] = score[1] = -INFINITY;
    if (token + g + 8 < begin_ || token + g + 8 >= end_) score[2] = score[3] = -INFINITY;
    float largest[2];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      largest[c] = fmaxf(score[c], score[c + 2]);
      largest[c] = fmaxf(largest[c], __shfl_xor_sync(~0u, largest[c], 4));
      largest[c] = fmaxf(largest[c], __shfl_xor_sync(~0u, largest[c], 8));
      largest[c] = fmaxf(largest[c], __shfl_xor_sync(~0u, largest[c], 16));
    }
    if (__any_sync(~0u, largest[0] > largest_[0] || largest[1] > largest_[1])) Rescale(largest);
    float weight[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) weight[i] = exp2f(score[i] - largest_[i % 2]);
    const int slot = head_ / p_.value.heads_per_group - value_group_;
    const uint8_t* rows = unit + layout_.values_begin + slot * layout_.value_bytes;
    if constexpr (kQuantized) {
      AddQuantized(rows, weight);
    } else {
      const uint32_t low = PackBF16(weight[0], weight[1]);
      const uint32_t high = PackBF16(weight[2], weight[3]);
      sum_[0] += LowBF16(low) + LowBF16(high);
      sum_[1] += HighBF16(low) + HighBF16(high);
      AddValuesBF16<kValueTiles>(acc_, layout_.value_tiles, rows, layout_.value_stride, lane_,
                                 Transpose(low), Transpose(high));
    }
  }

  __device__ void Rescale(const float (&largest)[2]) {
    float rescale[2];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float now = fmaxf(largest_[c], largest[c]);
      rescale[c] = exp2f(largest_[c] - now);
      largest_[c] = now;
      sum_[c] *= rescale[c];
      zero_[c] *= rescale[c];
    }
#pragma unroll
    for (int m = 0; m < kValueTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc_[m][i] *= rescale[i % 2];
    }
  }

  // The token's scale goes into its weight, its zero is added up apart.
  __device__ void AddQuantized(const uint8_t* rows, const float (&weight)[4]) {
    const int g = lane_ / 4;
    const auto* scales = reinterpret_cast<const __half2*>(rows + layout_.value_scales);
    const float2 first = __half22float2(scales[g]);
    const float2 second = __half22float2(scales[g + 8]);
    // Scales of tokens outside the range may be anything.
    const auto product = [](float w, float x) { return w > 0.0f ? w * x : 0.0f; };
    const uint32_t low = PackBF16(product(weight[0], first.x), product(weight[1], first.x));
    const uint32_t high = PackBF16(product(weight[2], second.x), product(weight[3], second.x));
    const SegmentView& segment = p_.value.groups[value_group_];
    const float offset = segment.format == LatentFormat::kInt8 ? 0.0f : 128.0f;
    sum_[0] += weight[0] + weight[2];
    sum_[1] += weight[1] + weight[3];
    zero_[0] += product(weight[0], first.y) + product(weight[2], second.y) -
                offset * (LowBF16(low) + LowBF16(high));
    zero_[1] += product(weight[1], first.y) + product(weight[3], second.y) -
                offset * (HighBF16(low) + HighBF16(high));
    AddValueCodes<kValueTiles>(acc_, layout_.value_tiles, rows, layout_.value_stride,
                               segment.high_offset, segment.format, lane_, Transpose(low),
                               Transpose(high));
  }

  // Scores of tokens g (0, 1) and g + 8 (2, 3) for query heads 2q and 2q + 1.
  __device__ void Scores(const uint8_t* unit, const uint8_t* angles, float (&score)[4]) {
    uint32_t latent[2 * kChunks][4];
    LoadLatents(unit, latent);
    float even[4] = {}, odd[4] = {};
#pragma unroll
    for (int s = 0; s < kHalfTiles / 2; ++s) {
      uint32_t first[4], second[4];
      float x1[2][4] = {}, x2[2][4] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        RebuildTile(2 * s + half, latent, x1[half]);
        RebuildTile(2 * s + half + kHalfTiles, latent, x2[half]);
      }
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const uint8_t* at = angles + side * 8 * kAngleStride<kHeadDim> + s * 64;
        const float4 c = *reinterpret_cast<const float4*>(at);
        const float4 n = *reinterpret_cast<const float4*>(at + kHeadDim * 2);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          Rotate(__floats2half2_rn(x1[half][2 * side], x1[half][2 * side + 1]),
                 __floats2half2_rn(x2[half][2 * side], x2[half][2 * side + 1]),
                 half == 0 ? __floats2half2_rn(c.x, c.y) : __floats2half2_rn(c.z, c.w),
                 half == 0 ? __floats2half2_rn(n.x, n.y) : __floats2half2_rn(n.z, n.w),
                 &first[2 * half + side], &second[2 * half + side]);
        }
      }
      MmaF16(even, first, query_[s][0], query_[s][1]);
      MmaF16(odd, second, query_[s + kHalfTiles / 2][0], query_[s + kHalfTiles / 2][1]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) score[i] = even[i] + odd[i];
  }

  // Left operands of the rebuild.
  __device__ void LoadLatents(const uint8_t* unit, uint32_t (&latent)[2 * kChunks][4]) {
    const int g = lane_ / 4;
    const SegmentView& segment = p_.key.groups[key_group_];
    const uint8_t* rows = unit + (head_ / p_.key.heads_per_group - key_group_) * layout_.key_bytes;
    const auto* scales = reinterpret_cast<const __half2*>(rows + layout_.key_scales);
    if constexpr (!kQuantized) {
      const uint32_t base = SharedAddress(rows + lane_ % 16 * segment.row_bytes + lane_ / 16 * 16);
#pragma unroll
      for (int c = 0; c < 2 * kChunks; ++c) LoadMatrices(latent[c], base + c * 32);
    } else {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const int first = lane_ % 4 * (kRank / 4) + c * 8;
        const uint4 low = LoadEight(rows + g * segment.row_bytes, first, segment.format,
                                    segment.high_offset, scales[g]);
        const uint4 high = LoadEight(rows + (g + 8) * segment.row_bytes, first, segment.format,
                                     segment.high_offset, scales[g + 8]);
        latent[2 * c][0] = low.x, latent[2 * c][1] = high.x;
        latent[2 * c][2] = low.y, latent[2 * c][3] = high.y;
        latent[2 * c + 1][0] = low.z, latent[2 * c + 1][1] = high.z;
        latent[2 * c + 1][2] = low.w, latent[2 * c + 1][3] = high.w;
        Pin(latent[2 * c]);
        Pin(latent[2 * c + 1]);
      }
    }
  }

  __device__ void RebuildTile(int j, const uint32_t (&latent)[2 * kChunks][4], float (&x)[4]) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      uint4 b;
      if constexpr (kFactorInRegisters) {
        b = factor_[j];
      } else {
        b = Factor(j, c);
      }
      if constexpr (kQuantized) {
        MmaF16(x, latent[2 * c], b.x, b.y);
        MmaF16(x, latent[2 * c + 1], b.z, b.w);
      } else {
        MmaBF16(x, latent[2 * c], b.x, b.y);
        MmaBF16(x, latent[2 * c + 1], b.z, b.w);
      }
    }
  }

  // The partial result of this split and stream, for the combine kernel.
  __device__ void Finish() {
    if (!active_) return;
    const int g = lane_ / 4;
    const int q = lane_ % 4;
    const int rank = p_.value.groups[0].rank;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      for (int mask = 4; mask <= 16; mask *= 2) {
        sum_[c] += __shfl_xor_sync(~0u, sum_[c], mask);
        zero_[c] += __shfl_xor_sync(~0u, zero_[c], mask);
      }
      const int column = 2 * q + c;
      if (column >= repeat_) continue;
      const int64_t row = static_cast<int64_t>(blockIdx.z) * p_.q_heads + head_ * repeat_ + column;
      float* part = p_.partial +
                    (row * p_.splits + blockIdx.x * layout_.streams + stream_) * p_.partial_stride;
      if (g == 0) {
        part[0] = largest_[c];
        part[1] = sum_[c];
      }
#pragma unroll
      for (int m = 0; m < kValueTiles; ++m) {
        const int first = kQuantized ? m / 2 * 32 + 4 * g + m % 2 * 2 : 16 * m + g;
        const int second = kQuantized ? first + 1 : first + 8;
        if (first < rank) part[4 + first] = acc_[m][c] + zero_[c];
        if (second < rank) part[4 + second] = acc_[m][c + 2] + zero_[c];
      }
    }
  }

  __device__ int32_t* Blocks() const { return reinterpret_cast<int32_t*>(memory_); }
  __device__ CopyPlan* Plans() const {
    return reinterpret_cast<CopyPlan*>(memory_ + layout_.plan_begin);
  }
  __device__ uint4& Factor(int j, int c) const {
    auto* words = reinterpret_cast<uint4*>(memory_ + layout_.factor_begin);
    return words[((warp_ % layout_.heads * 2 * kHalfTiles + j) * kChunks + c) * kWarp + lane_];
  }
  __device__ uint8_t* Stage(int i) const {
    return memory_ + layout_.ring_begin + i * layout_.stage_bytes;
  }

  const AttentionParams& p_;
  const DecodeLayout& layout_;
  uint8_t* memory_;
  int warp_, lane_, repeat_, first_head_, head_, stream_;
  bool active_;
  int begin_ = 0, end_ = 0, first_block_ = 0;
  int key_group_ = 0, keys_ = 0, value_group_ = 0, values_ = 0;
  int chunks_ = 0;
  uint4 factor_[kFactorInRegisters ? 2 * kHalfTiles : 1];
  uint32_t query_[kHalfTiles][2];
  float acc_[kValueTiles][4] = {};
  float largest_[2] = {-INFINITY, -INFINITY};
  float sum_[2] = {};
  float zero_[2] = {};
};

template <int kHeadDim, int kRank, int kValueTiles, bool kQuantized>
__global__ void __launch_bounds__(kDecodeThreads, 1)
    DecodeKernel(__grid_constant__ const AttentionParams p,
                 __grid_constant__ const DecodeLayout layout) {
  extern __shared__ __align__(128) uint8_t memory[];
  DecodeBlock<kHeadDim, kRank, kValueTiles, kQuantized>(p, layout, memory).Run();
}

}  // namespace palu::cuda
