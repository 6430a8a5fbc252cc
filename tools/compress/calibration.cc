#include "tools/compress/calibration.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <span>

#include "tools/compress/blas.h"
#include "tools/compress/f32_layer.h"
#include "tools/compress/parallel.h"

namespace palu {
namespace {

MatrixF Gram(const MatrixF& x) {
  MatrixF gram(x.cols(), x.cols());
  GemmTN(x, x, gram);
  return gram;
}

LayerStatistics Empty(const ModelConfig& config, int layer, bool gradients) {
  const Eigen::Index kv = Eigen::Index{config.num_kv_heads} * config.head_dim;
  LayerStatistics s;
  s.input.setZero(config.hidden_size, config.hidden_size);
  s.query_energy.setZero(kv);
  s.expert_tokens.setZero(config.layers[layer].moe ? config.num_experts : 0);
  if (!gradients) return s;
  s.key_gradient.setZero(kv, kv);
  s.value_gradient.setZero(kv, kv);
  return s;
}

VectorD QueryEnergy(const ModelConfig& config, int rotary_dim, const MatrixF& q) {
  const int d = config.head_dim;
  const int shared = config.num_heads / config.num_kv_heads;
  const VectorD energy = q.cast<double>().array().square().colwise().sum().transpose();
  VectorD sum = VectorD::Zero(Eigen::Index{config.num_kv_heads} * d);
  for (int head = 0; head < config.num_heads; ++head) {
    VectorD one = energy.segment(Eigen::Index{head} * d, d);
    const int half = rotary_dim / 2;
    for (int i = 0; i < half; ++i) one[i] = one[i + half] = 0.5 * (one[i] + one[i + half]);
    sum.segment(Eigen::Index{head / shared} * d, d) += one;
  }
  return sum;
}

MatrixF WeightGradient(const MatrixF& gradient, const MatrixF& x) {
  MatrixF weight_gradient(gradient.cols(), x.cols());
  GemmTN(gradient, x, weight_gradient);
  return weight_gradient;
}

// Of the weights of K and V of one layer: sums over windows of the squares.
struct SquaredGradients {
  MatrixF key, value;  // [kv_heads * head_dim, hidden]
};

VectorD ExpertTokens(const FeedForwardActivations& a) {
  VectorD tokens(static_cast<Eigen::Index>(a.experts.size()));
  for (size_t e = 0; e < a.experts.size(); ++e) {
    tokens[static_cast<Eigen::Index>(e)] = static_cast<double>(a.experts[e].tokens.size());
  }
  return tokens;
}

// One batch of windows, forward then backward, layer by layer. Windows run in parallel; what they
// give is added in their order, so that sums do not depend on threads.
class Batch {
 public:
  // squares: [layer], empty without gradients.
  Batch(F32Model* model, std::span<const std::vector<int32_t>> windows,
        std::vector<SquaredGradients>* squares, Statistics* statistics)
      : model_(model),
        windows_(windows),
        gradients_(!squares->empty()),
        squares_(squares),
        statistics_(statistics) {}

  double Run() {
    const int layers = model_->config().num_layers;
    std::vector<MatrixF> x;
    for (const auto& window : windows_) x.push_back(Embed(*model_, window));
    for (int layer = 0; layer < layers; ++layer) {
      if (gradients_) inputs_.push_back(x);
      Forward(layer, &x);
    }
    std::vector<double> losses(x.size());
    ParallelFor(x.size(), [&](size_t i) {
      MatrixF dx;
      losses[i] = WindowLoss(*model_, x[i], windows_[i], gradients_ ? &dx : nullptr);
      if (gradients_) x[i] = std::move(dx);
    });
    for (int layer = layers - 1; gradients_ && layer >= 0; --layer) Backward(layer, &x);
    return std::accumulate(losses.begin(), losses.end(), 0.0);
  }

 private:
  // work(i) in parallel, then add(i) in order, as many at a time as there are threads.
  void InOrder(const std::function<void(size_t)>& work, const std::function<void(size_t)>& add) {
    const auto step = static_cast<size_t>(std::max(1, BlasThreads()));
    for (size_t begin = 0; begin < windows_.size(); begin += step) {
      const size_t count = std::min(step, windows_.size() - begin);
      ParallelFor(count, [&](size_t i) { work(begin + i); });
      for (size_t i = 0; i < count; ++i) add(begin + i);
    }
  }

  void Forward(int layer, std::vector<MatrixF>* x) {
    model_->Layer(layer);  // read from disk now, not by several threads
    const ModelConfig& config = model_->config();
    LayerStatistics& s = statistics_->layers[layer];
    struct Part {
      MatrixF gram;
      VectorD energy, experts;
    };
    std::vector<Part> parts(x->size());
    InOrder(
        [&](size_t i) {
          LayerActivations a;
          (*x)[i] = ForwardLayer(model_, layer, (*x)[i], nullptr, &a);
          parts[i] = {Gram(a.normed),
                      QueryEnergy(config, config.ropes[config.layers[layer].rope].rotary_dim, a.q),
                      ExpertTokens(a.mlp)};
        },
        [&](size_t i) {
          s.input += parts[i].gram.cast<double>();
          s.query_energy += parts[i].energy;
          s.expert_tokens += parts[i].experts;
          parts[i] = {};
        });
  }

  void Backward(int layer, std::vector<MatrixF>* dx) {
    model_->Layer(layer);
    LayerStatistics& s = statistics_->layers[layer];
    struct Part {
      MatrixF key, value, key_weight, value_weight;
    };
    std::vector<Part> parts(dx->size());
    InOrder(
        [&](size_t i) {
          LayerActivations a;
          const MatrixF& x = inputs_[layer][i];
          ForwardLayer(model_, layer, x, nullptr, &a);
          LayerGradient gradient = BackwardLayer(model_, layer, x, a, (*dx)[i]);
          parts[i] = {Gram(gradient.dk), Gram(gradient.dv), WeightGradient(gradient.dk, a.normed),
                      WeightGradient(gradient.dv, a.normed)};
          (*dx)[i] = std::move(gradient.dx);
          inputs_[layer][i] = {};
        },
        [&](size_t i) {
          s.key_gradient += parts[i].key.cast<double>();
          s.value_gradient += parts[i].value.cast<double>();
          (*squares_)[layer].key.array() += parts[i].key_weight.array().square();
          (*squares_)[layer].value.array() += parts[i].value_weight.array().square();
          parts[i] = {};
        });
  }

  F32Model* model_;
  std::span<const std::vector<int32_t>> windows_;
  bool gradients_;
  std::vector<SquaredGradients>* squares_;
  Statistics* statistics_;
  std::vector<std::vector<MatrixF>> inputs_;  // [layer][window]
};

VectorD MeanRms(const MatrixF& squares, size_t windows) {
  return (squares.cast<double>().array() / static_cast<double>(windows)).sqrt().rowwise().mean();
}

void Average(int64_t tokens, LayerStatistics* s) {
  const double per_token = 1.0 / static_cast<double>(tokens);
  s->input *= per_token;
  s->query_energy *= per_token;
  s->key_gradient *= per_token;
  s->value_gradient *= per_token;
}

}  // namespace

Statistics Calibrate(F32Model* model, const TokenWindows& windows, bool gradients,
                     int64_t memory_bytes, const CalibrationProgress& progress) {
  const ModelConfig& config = model->config();
  Statistics statistics;
  statistics.has_gradients = gradients;
  std::vector<SquaredGradients> squares;
  const Eigen::Index kv = Eigen::Index{config.num_kv_heads} * config.head_dim;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    statistics.layers.push_back(Empty(config, layer, gradients));
    if (!gradients) continue;
    const MatrixF zero = MatrixF::Zero(kv, config.hidden_size);
    squares.push_back({zero, zero});
  }
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
    loss += Batch(model, part, &squares, &statistics).Run();
    for (const auto& window : part) {
      statistics.tokens += static_cast<int64_t>(window.size());
      predictions += static_cast<int64_t>(window.size()) - 1;
    }
    if (!std::isfinite(loss)) throw CompressError("calibration: the loss is not finite");
    if (progress) progress(static_cast<int>(begin + count), static_cast<int>(windows.size()));
  }
  statistics.loss = loss / static_cast<double>(predictions);
  for (LayerStatistics& s : statistics.layers) Average(statistics.tokens, &s);
  for (size_t layer = 0; layer < squares.size(); ++layer) {
    statistics.layers[layer].key_fisher = MeanRms(squares[layer].key, windows.size());
    statistics.layers[layer].value_fisher = MeanRms(squares[layer].value, windows.size());
  }
  return statistics;
}

}  // namespace palu
