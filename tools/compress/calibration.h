// Statistics of a model over calibration text: what the factors and the ranks are chosen by.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tools/compress/f32_model.h"

namespace palu {

using TokenWindows = std::vector<std::vector<int32_t>>;

// Of one layer, means over tokens.
struct LayerStatistics {
  MatrixD input;         // A = E[x x^T], x the input of K and V: [hidden, hidden]
  VectorD query_energy;  // [kv_heads * head_dim]: E[q^2] of the query heads that read a KV head,
                         // summed over them and equal over the two dims of a RoPE pair
  // Need gradients (g of the summed loss of a window at one token):
  MatrixD key_gradient;    // G = E[g g^T] at the output of K, before norm and RoPE
  MatrixD value_gradient;  // at the output of V
  // Per output row: mean over columns of the RMS over windows of the weight's gradient.
  VectorD key_fisher, value_fisher;  // [kv_heads * head_dim]
  VectorD expert_tokens;  // mixture of experts: calibration tokens that chose each; else empty
};

struct Statistics {
  int64_t tokens = 0;
  double loss = 0;  // mean negative log-likelihood per predicted token, uncompressed
  bool has_gradients = false;
  std::vector<LayerStatistics> layers;
};

// Called with the number of windows done.
using CalibrationProgress = std::function<void(int done, int total)>;

// Windows are taken memory_bytes of activations at a time; within such a batch layer by layer, so
// that a streamed model is read once (twice with gradients) per batch. Throws CompressError when
// something is not finite.
Statistics Calibrate(F32Model* model, const TokenWindows& windows, bool gradients,
                     int64_t memory_bytes, const CalibrationProgress& progress);

}  // namespace palu
