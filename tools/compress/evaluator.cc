#include "tools/compress/evaluator.h"

#include "tools/compress/f32_layer.h"

namespace palu {

bool SameSpec(const ProjectionSpec& a, const ProjectionSpec& b) {
  return a.dense == b.dense && a.format == b.format && a.heads_per_group == b.heads_per_group &&
         a.ranks == b.ranks && a.hadamard == b.hadamard;
}

PlanEvaluator::PlanEvaluator(F32Model* model, const FactorStore* factors,
                             const TokenWindows* windows, int64_t memory_bytes)
    : model_(model), factors_(factors), windows_(windows) {
  int64_t tokens = 0;
  for (const auto& window : *windows) tokens += static_cast<int64_t>(window.size());
  const int64_t bytes = tokens * model->config().hidden_size * model->config().num_layers *
                        static_cast<int64_t>(sizeof(float));
  may_keep_ = bytes <= memory_bytes;
}

double PlanEvaluator::Loss(const CompressionPlan& plan) {
  int first = 0;
  if (!reference_.empty()) {
    while (first < static_cast<int>(plan.size()) - 1 &&
           SameSpec(plan[first].key, reference_[first].key) &&
           SameSpec(plan[first].value, reference_[first].value)) {
      ++first;
    }
  }
  return Run(&plan, first, false);
}

double PlanEvaluator::LossAsReference(const CompressionPlan& plan) {
  if (!may_keep_) return Run(&plan, 0, false);
  const double loss = Run(&plan, 0, true);
  reference_ = plan;
  return loss;
}

double PlanEvaluator::UncompressedLoss() { return Run(nullptr, 0, false); }

PlanEvaluator::Simulations PlanEvaluator::Simulate(const CompressionPlan& plan) {
  const int head_dim = model_->config().head_dim;
  Simulations simulations;
  for (size_t i = 0; i < plan.size(); ++i) {
    const int layer = static_cast<int>(i);
    simulations.push_back({std::make_shared<ProjectionSimulation>(
                               factors_->Simulate(layer, true, plan[i].key, head_dim)),
                           std::make_shared<ProjectionSimulation>(
                               factors_->Simulate(layer, false, plan[i].value, head_dim))});
  }
  return simulations;
}

double PlanEvaluator::Run(const CompressionPlan* plan, int first_layer, bool keep) {
  ++evaluations_;
  const int layers = model_->config().num_layers;
  const Simulations simulations = plan == nullptr ? Simulations() : Simulate(*plan);
  if (keep) inputs_.assign(windows_->size(), std::vector<MatrixF>(layers));
  std::vector<MatrixF> x;
  for (size_t i = 0; i < windows_->size(); ++i) {
    x.push_back(first_layer > 0 ? inputs_[i][first_layer] : Embed(*model_, (*windows_)[i]));
  }
  LayerActivations activations;
  for (int layer = first_layer; layer < layers; ++layer) {
    for (size_t i = 0; i < x.size(); ++i) {
      if (keep) inputs_[i][layer] = x[i];
      x[i] = ForwardLayer(model_, layer, x[i], plan == nullptr ? nullptr : &simulations[layer],
                          &activations);
    }
  }
  double loss = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    loss += WindowLoss(*model_, x[i], (*windows_)[i], nullptr);
  }
  return loss / static_cast<double>(Predictions());
}

int64_t PlanEvaluator::Predictions() const {
  int64_t predictions = 0;
  for (const auto& window : *windows_) predictions += static_cast<int64_t>(window.size()) - 1;
  return predictions;
}

}  // namespace palu
