// Parameters and partial results that the attention kernels share.
#pragma once

#include "kernels/cuda/latent_view.cuh"
#include "kernels/cuda/ops.h"

namespace palu::cuda {

// LatentAttentionArgs for the device.
struct AttentionParams {
  const void* q;
  int64_t q_token_stride, q_head_stride;
  void* out;
  int64_t out_token_stride, out_head_stride;
  const int32_t* cu_seqlens;
  const int32_t* context_lens;
  const int32_t* block_tables;
  int64_t table_stride;
  const std::byte* pool;
  int64_t block_bytes;
  const void* key_bias;
  const void* value_bias;
  const void* k_norm;
  const float* cos_sin;
  float* partial;  // [q tokens * q_heads, splits, partial_stride]: m, l, then the value latents
  int32_t partial_stride;
  int32_t splits;
  int32_t block_size;
  int32_t tokens, sequences, q_heads, kv_heads, head_dim;
  int32_t rotary;  // dims that RoPE turns
  int32_t window;
  float scale;
  float k_norm_eps, k_norm_offset;
  DType activations, key_bias_type, value_bias_type, k_norm_type;
  ProjectionView key, value;
};

// The cached positions that a split of a decode query at position last sees, rounded so that splits
// start at a multiple of tile tokens.
struct SplitRange {
  int begin, end;
};

__device__ inline SplitRange RangeOf(int last, int window, int split, int splits, int tile) {
  const int first = window > 0 && last + 1 > window ? last + 1 - window : 0;
  const int first_tile = first / tile;
  const int tiles = last / tile + 1 - first_tile;
  const int per_split = (tiles + splits - 1) / splits;
  const int begin = (first_tile + split * per_split) * tile;
  const int end = begin + per_split * tile;
  return {max(begin, first), min(end, last + 1)};
}

// Largest value row (numbers) over the groups.
inline int MaxRank(const ProjectionView& projection) {
  int rank = 0;
  for (int g = 0; g < projection.num_groups; ++g) {
    if (projection.groups[g].rank > rank) rank = projection.groups[g].rank;
  }
  return rank;
}

// Merges the splits, applies the value factor and bias, writes out. latent_combine.cu.
void LaunchCombine(Context& context, const AttentionParams& params);

// The general kernel: any shape, format and query count. latent_general.cu.
void LaunchGeneral(Context& context, AttentionParams& params, bool decode);

// The fast decode kernel; false when it does not serve this shape. latent_decode.cu.
bool LaunchDecode(Context& context, AttentionParams& params);

// AttentionParams' cu_seqlens and context_lens as the host knows them.
struct HostLengths {
  const int32_t* cu_seqlens;
  const int32_t* context_lens;
};

// Rebuilds keys and values once, then flash attention; false when it does not serve this shape.
// latent_prefill.cu.
bool LaunchPrefill(Context& context, const AttentionParams& params, const HostLengths& lengths);
size_t PrefillScratchBytes(const Context& context, const StepLimits& limits);

// Scratch memory for partial results of splits that have this many floats each; the number of
// splits is limited by it.
inline constexpr size_t kPartialBytes = 64 << 20;

}  // namespace palu::cuda
