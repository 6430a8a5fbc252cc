// Measured loss of a plan on a set of windows.
#pragma once

#include <memory>
#include <vector>

#include "tools/compress/f32_ops.h"
#include "tools/compress/factor_store.h"

namespace palu {

// Means per predicted token, nats.
struct PlanLoss {
  double loss = 0;  // negative log-likelihood of the text
  double kl = 0;    // divergence from the uncompressed model: the expected increase of the loss,
                    // and far less noisy on the same windows
};

// Keeps the layer inputs of one reference plan, so that a plan that differs from it only from some
// layer on costs only the layers from there. Windows run in parallel. Not thread-safe.
class PlanEvaluator {
 public:
  // model, factors and windows must outlive it. Layer inputs and the uncompressed model's logits
  // are kept only if each fits in half of memory_bytes.
  PlanEvaluator(F32Model* model, const FactorStore* factors, const TokenWindows* windows,
                int64_t memory_bytes);

  PlanLoss Loss(const CompressionPlan& plan);
  // The layer inputs of this plan are kept from now on, if there is memory for them.
  void SetReference(const CompressionPlan& plan);
  // Without any cache arithmetic.
  double UncompressedLoss();

 private:
  using Simulations = std::vector<LayerSimulation>;
  Simulations Simulate(const CompressionPlan& plan) const;
  PlanLoss Run(const CompressionPlan* plan, int first_layer, bool keep);
  double Predictions() const;

  F32Model* model_;
  const FactorStore* factors_;
  const TokenWindows* windows_;
  bool may_keep_;
  bool may_keep_logits_;
  std::vector<DivergenceReference> uncompressed_;  // [window]; empty until needed
  double uncompressed_loss_ = 0;
  CompressionPlan reference_;
  std::vector<std::vector<MatrixF>> inputs_;  // [window][layer] of reference_
};

// Two choices for one projection are the same arithmetic.
bool SameSpec(const ProjectionSpec& a, const ProjectionSpec& b);

}  // namespace palu
