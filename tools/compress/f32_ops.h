// Forward and backward of the transformer's parts in float32, for calibration. T is the number of
// tokens of one window. Gradients are of the summed loss.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "tools/compress/matrix.h"

namespace palu {

// x [T, in] times weight [out, in] transposed, plus bias [out] if it is not empty.
MatrixF Linear(const MatrixF& x, const MatrixF& weight, const VectorF& bias = {});

// y = x / rms(x) * (weight + offset) over every run of weight.size() columns of x [T, n * width].
MatrixF RmsNorm(const MatrixF& x, const VectorF& weight, float eps, float offset);
// Gradient of x for gradient dy of y.
MatrixF RmsNormBackward(const MatrixF& x, const MatrixF& dy, const VectorF& weight, float eps,
                        float offset);

// cos_sin [>= T, rotary_dim]: rotary/2 cosines, then rotary/2 sines; row t of x [T, heads *
// head_dim] is turned by row t, pairs (i, i + rotary/2) of every head. sign -1 turns back (the
// gradient).
void Rope(MatrixF* x, const MatrixF& cos_sin, int head_dim, int sign);

struct AttentionShape {
  int q_heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 1;
  int window = 0;  // 0: full causal
};

// q [T, q_heads * head_dim], k and v [T, kv_heads * head_dim].
MatrixF Attention(const MatrixF& q, const MatrixF& k, const MatrixF& v,
                  const AttentionShape& shape);
struct AttentionGradient {
  MatrixF dq, dk, dv;
};
// out is Attention's result, dout its gradient.
AttentionGradient AttentionBackward(const MatrixF& q, const MatrixF& k, const MatrixF& v,
                                    const MatrixF& out, const MatrixF& dout,
                                    const AttentionShape& shape);

// act(gate) * up, and its gradients in place of gate and up.
MatrixF GatedActivation(const MatrixF& gate, const MatrixF& up, Activation activation);
void GatedActivationBackward(MatrixF* gate, MatrixF* up, const MatrixF& dy, Activation activation);

// Next-token losses of one window. x [T, hidden] after the last norm, head [V, hidden]. Adds the
// negative log-likelihood of ids[t + 1] at every t < T - 1; dx, if not null, becomes its gradient.
double CrossEntropy(const MatrixF& x, const MatrixF& head, std::span<const int32_t> ids,
                    MatrixF* dx);

// Sums over a window's predictions, nats.
struct WindowDivergence {
  double loss = 0;  // negative log-likelihood, as CrossEntropy
  double kl = 0;    // KL(reference || x): what a coded cache changes, without the text's own chance
};
// The uncompressed model on the same window: [T, hidden] after its last norm, and its logits
// [T, V], or none: then they are computed in parts as they are needed.
struct DivergenceReference {
  MatrixF normed, logits;
};
WindowDivergence Divergence(const MatrixF& x, const DivergenceReference& reference,
                            const MatrixF& head, std::span<const int32_t> ids);

}  // namespace palu
