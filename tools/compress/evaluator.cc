#include "tools/compress/evaluator.h"

#include <numeric>

#include "tools/compress/f32_layer.h"
#include "tools/compress/parallel.h"

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
  may_keep_ = bytes <= memory_bytes / 2;
  may_keep_logits_ =
      tokens * model->config().vocab_size * static_cast<int64_t>(sizeof(float)) <= memory_bytes / 2;
}

PlanLoss PlanEvaluator::Loss(const CompressionPlan& plan) {
  int first = 0;
  if (!reference_.empty()) {
    while (first < static_cast<int>(plan.size()) - 1 &&
           SameSpec(plan[first].key, reference_[first].key) &&
           SameSpec(plan[first].value, reference_[first].value)) {
      ++first;
    }
  }
  UncompressedLoss();
  return Run(&plan, first, false);
}

void PlanEvaluator::SetReference(const CompressionPlan& plan) {
  if (!may_keep_) return;
  UncompressedLoss();
  Run(&plan, 0, true);
  reference_ = plan;
}

double PlanEvaluator::UncompressedLoss() {
  if (uncompressed_.empty()) uncompressed_loss_ = Run(nullptr, 0, false).loss;
  return uncompressed_loss_;
}

PlanEvaluator::Simulations PlanEvaluator::Simulate(const CompressionPlan& plan) const {
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

PlanLoss PlanEvaluator::Run(const CompressionPlan* plan, int first_layer, bool keep) {
  const int layers = model_->config().num_layers;
  const size_t count = windows_->size();
  const Simulations simulations = plan == nullptr ? Simulations() : Simulate(*plan);
  if (keep) inputs_.assign(count, std::vector<MatrixF>(layers));
  std::vector<MatrixF> x(count);
  for (size_t i = 0; i < count; ++i) {
    x[i] = first_layer > 0 ? inputs_[i][first_layer] : Embed(*model_, (*windows_)[i]);
  }
  for (int layer = first_layer; layer < layers; ++layer) {
    model_->Layer(layer);  // read from disk now, not by several threads
    ParallelFor(count, [&](size_t i) {
      if (keep) inputs_[i][layer] = x[i];
      LayerActivations activations;
      x[i] = ForwardLayer(model_, layer, x[i], plan == nullptr ? nullptr : &simulations[layer],
                          &activations);
    });
  }
  std::vector<WindowDivergence> sums(count);
  if (plan == nullptr) uncompressed_.resize(count);
  ParallelFor(count, [&](size_t i) {
    MatrixF normed = FinalNorm(*model_, x[i]);
    if (plan == nullptr) {
      sums[i].loss = CrossEntropy(normed, model_->head(), (*windows_)[i], nullptr);
      if (may_keep_logits_) uncompressed_[i].logits = Linear(normed, model_->head());
      uncompressed_[i].normed = std::move(normed);
    } else {
      sums[i] = Divergence(normed, uncompressed_[i], model_->head(), (*windows_)[i]);
    }
  });
  PlanLoss loss;
  for (const WindowDivergence& sum : sums) {
    loss.loss += sum.loss / Predictions();
    loss.kl += sum.kl / Predictions();
  }
  return loss;
}

double PlanEvaluator::Predictions() const {
  return std::accumulate(windows_->begin(), windows_->end(), 0.0, [](double sum, const auto& w) {
    return sum + static_cast<double>(w.size() - 1);
  });
}

}  // namespace palu
