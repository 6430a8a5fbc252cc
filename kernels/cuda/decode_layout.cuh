// How a block of the fast decode kernel uses its shared memory and warps
// (docs/kernels/latent_decode.md).
#pragma once

#include "kernels/cuda/latent_params.cuh"

namespace palu::cuda {

inline constexpr int kDecodeUnit = 16;  // tokens that a warp takes at a time
inline constexpr int kDecodeWarps = 8;  // that compute
inline constexpr int kCopyWarps = 4;
inline constexpr int kComputeThreads = kDecodeWarps * kWarp;
inline constexpr int kCopyThreads = kCopyWarps * kWarp;
inline constexpr int kDecodeThreads = kComputeThreads + kCopyThreads;
// Registers per thread by role; together those of 168 per thread, which the block starts with.
inline constexpr int kComputeRegisters = 200;
inline constexpr int kCopyRegisters = 104;
inline constexpr int kDecodeMaxStages = 8;
inline constexpr int kMaxRepeat = 8;  // query heads per KV head

// Rows of one projection in a stage: per group `tokens` rows, then their scales.
struct SideLayout {
  int32_t begin;        // of the first group in the stage
  int32_t group_bytes;  // from group to group
  int32_t scales;       // offset of the scales inside a group
  int32_t stride;       // bytes from row to row
  int32_t row_bytes;    // in the cache
  int32_t head_bytes;   // from head to head inside a row: dense only
  // A warp's walk over padded rows in chunks of sixteen bytes: what 32 chunks further means.
  int32_t row_chunks;
  int32_t column_step;  // in the row
  int32_t step_bytes;   // in the stage
};

struct DecodeLayout {
  SideLayout key, value;
  int32_t heads;    // KV heads of a block
  int32_t streams;  // warps of a KV head; they take units in turn
  int32_t units;    // of a stage
  int32_t stages;   // of the ring
  int32_t stage_bytes;
  int32_t angles_begin;  // in a stage
  int32_t value_tiles;   // mma tiles of sixteen numbers
  int32_t factor_begin;  // in the block's memory
  int32_t bias_begin;
  int32_t bias_bytes;  // of a head; 0: keys have none
  int32_t ring_begin;
  int32_t block_shift;  // log 2 of the tokens of a cache block
  int32_t clear_ring;   // rows have padding that must read as zeros
};

// The heads and groups that a block works on.
struct BlockScope {
  int first_head, key_group, keys, value_group, values;

  __device__ BlockScope(const AttentionParams& p, const DecodeLayout& layout) {
    first_head = blockIdx.y * layout.heads;
    const int last = min(first_head + layout.heads, p.kv_heads) - 1;
    key_group = first_head / p.key.heads_per_group;
    keys = last / p.key.heads_per_group - key_group + 1;
    value_group = first_head / p.value.heads_per_group;
    values = last / p.value.heads_per_group - value_group + 1;
  }
};

// Bytes of a staged row of angles: cosines, then sines, in f16. The padding keeps the rows that
// eight lanes read together apart: matrix loads by rows, or sixteen bytes by pairs of rows.
template <int kHeadDim, bool kByRows>
inline constexpr int kAngleStride = kHeadDim * 2 + (kByRows              ? 16
                                                    : kHeadDim % 64 == 0 ? 64
                                                                         : 0);

}  // namespace palu::cuda
