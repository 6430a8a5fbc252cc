// What the two kernels of prefill attention share.
#pragma once

#include "kernels/cuda/latent_params.cuh"

namespace palu::cuda {

inline constexpr int kPrefillSequences = 64;  // of one pass
inline constexpr int kRebuildTokens = 64;     // of a block of the rebuild

// One sequence of a pass.
struct PrefillSequence {
  int32_t first_query;  // row of q
  int32_t queries;
  int32_t position;                  // of the first query
  int32_t first_token;               // earliest cached token that a query sees
  int32_t tokens;                    // rebuilt, first_token .. position + queries
  int32_t row;                       // of first_token in the workspace
  int32_t table;                     // row of the block tables
  int32_t rebuild_tile, query_tile;  // first tile of each kernel
};

struct PrefillBatch {
  PrefillSequence sequences[kPrefillSequences];
  int32_t count;
  int32_t rows;  // of the workspace
  bf16* keys;    // [rows, kv_heads, padded head_dim], zeros in the padding
  bf16* values;  // likewise
};

// The head_dim that the kernels are compiled for, at least this one; 0 above 256.
constexpr int PaddedHeadDim(int head_dim) {
  for (const int padded : {64, 80, 96, 128, 256}) {
    if (head_dim <= padded) return padded;
  }
  return 0;
}

// Keys and values of the pass's tokens as a dense cache would hold them. latent_rebuild.cu.
void LaunchRebuild(Context& context, const AttentionParams& params, const PrefillBatch& batch,
                   int tiles);

}  // namespace palu::cuda
