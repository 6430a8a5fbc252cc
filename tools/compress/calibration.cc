#include "tools/compress/calibration.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "tools/compress/blas.h"
#include "tools/compress/f32_layer.h"

namespace palu {
namespace {

void AddGram(const MatrixF& x, MatrixD* sum) {
  MatrixF gram(x.cols(), x.cols());
  GemmTN(x, x, gram);
  *sum += gram.cast<double>();
}

LayerStatistics Empty(const ModelConfig& config, bool gradients) {
  const Eigen::Index kv = Eigen::Index{config.num_kv_heads} * config.head_dim;
  LayerStatistics s;
  s.input.setZero(config.hidden_size, config.hidden_size);
  s.query_energy.setZero(kv);
  if (!gradients) return s;
  s.key_gradient.setZero(kv, kv);
  s.value_gradient.setZero(kv, kv);
  s.key_fisher.setZero(kv);
  s.value_fisher.setZero(kv);
  return s;
}

void AddQueryEnergy(const ModelConfig& config, int rotary_dim, const MatrixF& q, VectorD* sum) {
  const int d = config.head_dim;
  const int shared = config.num_heads / config.num_kv_heads;
  const VectorD energy = q.cast<double>().array().square().colwise().sum().transpose();
  for (int head = 0; head < config.num_heads; ++head) {
    VectorD one = energy.segment(Eigen::Index{head} * d, d);
    const int half = rotary_dim / 2;
    for (int i = 0; i < half; ++i) one[i] = one[i + half] = 0.5 * (one[i] + one[i + half]);
    sum->segment(Eigen::Index{head / shared} * d, d) += one;
  }
}

void AddFisher(const MatrixF& gradient, const MatrixF& x, VectorD* sum) {
  MatrixF weight_gradient(gradient.cols(), x.cols());
  GemmTN(gradient, x, weight_gradient);
  *sum += weight_gradient.cast<double>().array().square().rowwise().mean().matrix();
}

// One batch of windows, forward then backward, layer by layer.
class Batch {
 public:
  Batch(F32Model* model, std::span<const std::vector<int32_t>> windows, bool gradients,
        Statistics* statistics)
      : model_(model), windows_(windows), gradients_(gradients), statistics_(statistics) {}

  double Run() {
    const int layers = model_->config().num_layers;
    std::vector<MatrixF> x;
    for (const auto& window : windows_) x.push_back(Embed(*model_, window));
    for (int layer = 0; layer < layers; ++layer) {
      if (gradients_) inputs_.push_back(x);
      for (MatrixF& one : x) one = Forward(layer, one);
    }
    double loss = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      MatrixF dx;
      loss += WindowLoss(*model_, x[i], windows_[i], gradients_ ? &dx : nullptr);
      if (gradients_) x[i] = std::move(dx);
    }
    for (int layer = layers - 1; gradients_ && layer >= 0; --layer) {
      for (size_t i = 0; i < x.size(); ++i) x[i] = Backward(layer, inputs_[layer][i], x[i]);
    }
    return loss;
  }

 private:
  MatrixF Forward(int layer, const MatrixF& x) {
    LayerActivations activations;
    MatrixF out = ForwardLayer(model_, layer, x, nullptr, &activations);
    const ModelConfig& config = model_->config();
    LayerStatistics& s = statistics_->layers[layer];
    AddGram(activations.normed, &s.input);
    AddQueryEnergy(config, config.ropes[config.layers[layer].rope].rotary_dim, activations.q,
                   &s.query_energy);
    return out;
  }

  MatrixF Backward(int layer, const MatrixF& x, const MatrixF& dout) {
    LayerActivations activations;
    ForwardLayer(model_, layer, x, nullptr, &activations);
    LayerGradient gradient = BackwardLayer(model_, layer, x, activations, dout);
    LayerStatistics& s = statistics_->layers[layer];
    AddGram(gradient.dk, &s.key_gradient);
    AddGram(gradient.dv, &s.value_gradient);
    AddFisher(gradient.dk, activations.normed, &s.key_fisher);
    AddFisher(gradient.dv, activations.normed, &s.value_fisher);
    return std::move(gradient.dx);
  }

  F32Model* model_;
  std::span<const std::vector<int32_t>> windows_;
  bool gradients_;
  Statistics* statistics_;
  std::vector<std::vector<MatrixF>> inputs_;  // [layer][window]
};

void Average(int64_t tokens, size_t windows, bool gradients, LayerStatistics* s) {
  const double per_token = 1.0 / static_cast<double>(tokens);
  s->input *= per_token;
  s->query_energy *= per_token;
  if (!gradients) return;
  s->key_gradient *= per_token;
  s->value_gradient *= per_token;
  s->key_fisher /= static_cast<double>(windows);
  s->value_fisher /= static_cast<double>(windows);
}

}  // namespace

Statistics Calibrate(F32Model* model, const TokenWindows& windows, bool gradients,
                     int64_t memory_bytes, const CalibrationProgress& progress) {
  const ModelConfig& config = model->config();
  Statistics statistics;
  statistics.has_gradients = gradients;
  statistics.layers.assign(config.num_layers, Empty(config, gradients));
  const auto longest = static_cast<int64_t>(
      std::max_element(windows.begin(), windows.end(), [](const auto& a, const auto& b) {
        return a.size() < b.size();
      })->size());
  const int64_t window_bytes = longest * config.hidden_size * static_cast<int64_t>(sizeof(float)) *
                               (gradients ? config.num_layers + 1 : 1);
  const size_t batch = static_cast<size_t>(std::max<int64_t>(1, memory_bytes / window_bytes));
  double loss = 0;
  int64_t predictions = 0;
  for (size_t begin = 0; begin < windows.size(); begin += batch) {
    const size_t count = std::min(batch, windows.size() - begin);
    const std::span<const std::vector<int32_t>> part(windows.data() + begin, count);
    loss += Batch(model, part, gradients, &statistics).Run();
    for (const auto& window : part) {
      statistics.tokens += static_cast<int64_t>(window.size());
      predictions += static_cast<int64_t>(window.size()) - 1;
    }
    if (!std::isfinite(loss)) throw CompressError("calibration: the loss is not finite");
    if (progress) progress(static_cast<int>(begin + count), static_cast<int>(windows.size()));
  }
  statistics.loss = loss / static_cast<double>(predictions);
  for (LayerStatistics& s : statistics.layers) {
    Average(statistics.tokens, windows.size(), gradients, &s);
  }
  return statistics;
}

}  // namespace palu
