// Routes every token to its experts, then runs one expert after the other over the tokens that
// chose it. A token's output adds its experts in order of their index, so it does not depend on the
// batch.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/for_rows.h"

namespace palu::cpu {
namespace {

constexpr float kNotChosen = -1.0f;

// weights[e] becomes the weight of expert e for one token, or kNotChosen.
void Route(const float* logits, int experts, const MoeArgs& args, float* weights) {
  const float max = *std::max_element(logits, logits + experts);
  float total = 0.0f;
  for (int e = 0; e < experts; ++e) total += std::exp(logits[e] - max);
  std::fill(weights, weights + experts, kNotChosen);
  float kept = 0.0f;
  for (int k = 0; k < args.top_k; ++k) {
    int best = -1;
    for (int e = 0; e < experts; ++e) {
      if (weights[e] == kNotChosen && (best < 0 || logits[e] > logits[best])) best = e;
    }
    weights[best] = std::exp(logits[best] - max) / total;
    kept += weights[best];
  }
  if (!args.normalize) return;
  for (int e = 0; e < experts; ++e) {
    if (weights[e] != kNotChosen) weights[e] /= kept;
  }
}

}  // namespace

void CpuBackend::Moe(const MoeArgs& args) {
  const int64_t tokens = args.x.dim(0), width = args.x.dim(1);
  const int experts = static_cast<int>(args.router_logits.dim(1));
  const int64_t hidden = args.weights.gate[0].dim(0);
  PALU_CHECK(args.top_k >= 1 && args.top_k <= experts);
  PALU_CHECK(tokens <= scratch_.limits.max_tokens && experts <= scratch_.limits.max_experts);
  PALU_CHECK(hidden <= scratch_.limits.max_intermediate && width <= scratch_.limits.hidden_size);
  float* weights = scratch_.expert_weights.data();
  for (int64_t t = 0; t < tokens; ++t) {
    Route(args.router_logits.ptr<float>() + t * args.router_logits.stride[0], experts, args,
          weights + t * experts);
    std::memset(args.out.ptr<float>() + t * args.out.stride[0], 0, width * sizeof(float));
  }
  for (int e = 0; e < experts; ++e) {
    int32_t* chosen = scratch_.expert_tokens.data();
    int64_t count = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      if (weights[t * experts + e] == kNotChosen) continue;
      std::memcpy(scratch_.expert_x.data() + count * width,
                  args.x.ptr<float>() + t * args.x.stride[0], width * sizeof(float));
      chosen[count++] = static_cast<int32_t>(t);
    }
    if (count == 0) continue;
    const Tensor x(scratch_.expert_x.data(), DType::kF32, {count, width});
    const Tensor gate(scratch_.expert_gate.data(), DType::kF32, {count, hidden});
    const Tensor up(scratch_.expert_up.data(), DType::kF32, {count, hidden});
    Matmul({.x = x, .weight = args.weights.gate[e], .bias = {}, .out = gate});
    Matmul({.x = x, .weight = args.weights.up[e], .bias = {}, .out = up});
    GatedActivation({.gate = gate, .up = up, .out = gate, .activation = args.activation});
    Matmul({.x = gate, .weight = args.weights.down[e], .bias = {}, .out = x});
    ForRows(pool_, count, width, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float weight = weights[chosen[i] * experts + e];
        const float* row = x.ptr<float>() + i * width;
        float* out = args.out.ptr<float>() + chosen[i] * args.out.stride[0];
        for (int64_t j = 0; j < width; ++j) out[j] += weight * row[j];
      }
    });
  }
}

}  // namespace palu::cpu
