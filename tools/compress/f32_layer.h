// One transformer layer forward and backward in float32 over one window of T tokens.
#pragma once

#include <cstdint>
#include <span>

#include "tools/compress/cache_simulation.h"
#include "tools/compress/f32_mlp.h"

namespace palu {

// What the backward pass needs again; all [T, …].
struct LayerActivations {
  MatrixF normed;                 // input of Q, K and V: [T, hidden]
  MatrixF q_out, k_out;           // outputs of Q and K, bias added, before norm and RoPE
  MatrixF q, k, v;                // as attention sees them
  MatrixF heads;                  // attention's result
  MatrixF attention_out, middle;  // after O; after the residual sum
  MatrixF mlp_normed, mlp_out;
  FeedForwardActivations mlp;
};

// x [T, hidden] -> the layer's output. simulation may be null: keys and values as they are.
MatrixF ForwardLayer(F32Model* model, int layer, const MatrixF& x,
                     const LayerSimulation* simulation, LayerActivations* activations);

// Gradients of the outputs of K (before norm and RoPE) and V, and of the layer's input.
struct LayerGradient {
  MatrixF dk, dv, dx;
};
// activations: of ForwardLayer on x without simulation; dout: gradient of the layer's output.
LayerGradient BackwardLayer(F32Model* model, int layer, const MatrixF& x,
                            const LayerActivations& activations, const MatrixF& dout);

// Rows of the embedding table, scaled.
MatrixF Embed(const F32Model& model, std::span<const int32_t> ids);
// The last layer's output after the last norm.
MatrixF FinalNorm(const F32Model& model, const MatrixF& x);
// Sum of the next-token losses of a window from the last layer's output; dx, if not null, becomes
// its gradient.
double WindowLoss(const F32Model& model, const MatrixF& x, std::span<const int32_t> ids,
                  MatrixF* dx);

}  // namespace palu
