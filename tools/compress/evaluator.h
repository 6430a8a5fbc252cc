// Measured loss of a plan on a set of windows.
#pragma once

#include <memory>
#include <vector>

#include "tools/compress/factor_store.h"

namespace palu {

// Keeps the layer inputs of one reference plan, so that a plan that differs from it only from some
// layer on costs only the layers from there. Not thread-safe.
class PlanEvaluator {
 public:
  // model, factors and windows must outlive it. Layer inputs are kept only within memory_bytes.
  PlanEvaluator(F32Model* model, const FactorStore* factors, const TokenWindows* windows,
                int64_t memory_bytes);

  // Mean negative log-likelihood per predicted token.
  double Loss(const CompressionPlan& plan);
  // Likewise; the layer inputs of this plan become the reference.
  double LossAsReference(const CompressionPlan& plan);
  // Without any cache arithmetic.
  double UncompressedLoss();
  int64_t evaluations() const { return evaluations_; }

 private:
  using Simulations = std::vector<LayerSimulation>;
  Simulations Simulate(const CompressionPlan& plan);
  double Run(const CompressionPlan* plan, int first_layer, bool keep);
  int64_t Predictions() const;

  F32Model* model_;
  const FactorStore* factors_;
  const TokenWindows* windows_;
  bool may_keep_;
  CompressionPlan reference_;
  std::vector<std::vector<MatrixF>> inputs_;  // [window][layer] of reference_
  int64_t evaluations_ = 0;
};

// Two choices for one projection are the same arithmetic.
bool SameSpec(const ProjectionSpec& a, const ProjectionSpec& b);

}  // namespace palu
