#include "tools/compress/f32_mlp.h"

#include <algorithm>

#include "tools/compress/blas.h"
#include "tools/compress/f32_ops.h"

namespace palu {
namespace {

MatrixF Mlp(const ModelConfig& config, const F32Mlp& w, const MatrixF& x, MlpActivations* a) {
  a->gate = Linear(x, w.gate, w.gate_bias);
  a->up = Linear(x, w.up, w.up_bias);
  a->act = GatedActivation(a->gate, a->up, config.activation);
  return Linear(a->act, w.down, w.down_bias);
}

MatrixF MlpBackward(const ModelConfig& config, const F32Mlp& w, const MlpActivations& a,
                    const MatrixF& dy) {
  MatrixF dact(a.act.rows(), a.act.cols());
  GemmNN(dy, w.down, dact);
  MatrixF dgate = a.gate, dup = a.up;
  GatedActivationBackward(&dgate, &dup, dact, config.activation);
  MatrixF dx(dy.rows(), w.gate.cols());
  GemmNN(dgate, w.gate, dx);
  GemmNN(dup, w.up, dx, 1, 1);
  return dx;
}

MatrixF Rows(const MatrixF& x, const std::vector<int>& rows) {
  MatrixF picked(static_cast<Eigen::Index>(rows.size()), x.cols());
  for (size_t i = 0; i < rows.size(); ++i)
    picked.row(static_cast<Eigen::Index>(i)) = x.row(rows[i]);
  return picked;
}

// Softmax over all experts, and every token put down with the experts that it chose.
void Route(const ModelConfig& config, const MatrixF& router, const MatrixF& x,
           FeedForwardActivations* a) {
  a->probabilities.resize(x.rows(), router.rows());
  GemmNT(x, router, a->probabilities);
  a->experts.assign(router.rows(), {});
  std::vector<int> order(router.rows());
  for (Eigen::Index t = 0; t < x.rows(); ++t) {
    auto p = a->probabilities.row(t).array();
    p = (p - p.maxCoeff()).exp();
    p /= p.sum();
    for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int>(e);
    std::stable_sort(order.begin(), order.end(), [&](int l, int r) { return p[l] > p[r]; });
    float kept = 0;
    for (int k = 0; k < config.experts_per_token; ++k) kept += p[order[k]];
    for (int k = 0; k < config.experts_per_token; ++k) {
      ExpertActivations& expert = a->experts[order[k]];
      expert.tokens.push_back(static_cast<int>(t));
      expert.weight.push_back(config.normalize_expert_weights ? p[order[k]] / kept : p[order[k]]);
    }
  }
}

// dweight [T, experts]: gradient of the weights of chosen experts. Returns that of the logits.
MatrixF RouterGradient(const ModelConfig& config, const FeedForwardActivations& a,
                       MatrixF dweight) {
  const MatrixF& p = a.probabilities;
  if (config.normalize_expert_weights) {
    // weight = p / kept over the chosen: the weights sum to one.
    VectorF kept = VectorF::Zero(p.rows()), mean = VectorF::Zero(p.rows());
    for (size_t e = 0; e < a.experts.size(); ++e) {
      for (size_t i = 0; i < a.experts[e].tokens.size(); ++i) {
        const int t = a.experts[e].tokens[i];
        kept[t] += p(t, static_cast<Eigen::Index>(e));
        mean[t] += a.experts[e].weight[i] * dweight(t, static_cast<Eigen::Index>(e));
      }
    }
    for (size_t e = 0; e < a.experts.size(); ++e) {
      for (const int t : a.experts[e].tokens) {
        float& d = dweight(t, static_cast<Eigen::Index>(e));
        d = (d - mean[t]) / kept[t];
      }
    }
  }
  const VectorF mean = dweight.cwiseProduct(p).rowwise().sum();
  return p.array() * (dweight.colwise() - mean).array();
}

}  // namespace

MatrixF FeedForward(const ModelConfig& config, const F32LayerWeights& w, const MatrixF& x,
                    FeedForwardActivations* a) {
  if (w.experts.empty()) return Mlp(config, w.mlp, x, &a->dense);
  Route(config, w.router, x, a);
  MatrixF y = MatrixF::Zero(x.rows(), x.cols());
  for (size_t e = 0; e < w.experts.size(); ++e) {
    ExpertActivations& expert = a->experts[e];
    if (expert.tokens.empty()) continue;
    expert.x = Rows(x, expert.tokens);
    expert.out = Mlp(config, w.experts[e], expert.x, &expert.mlp);
    for (size_t i = 0; i < expert.tokens.size(); ++i) {
      y.row(expert.tokens[i]) += expert.weight[i] * expert.out.row(static_cast<Eigen::Index>(i));
    }
  }
  return y;
}

MatrixF FeedForwardBackward(const ModelConfig& config, const F32LayerWeights& w, const MatrixF& x,
                            const FeedForwardActivations& a, const MatrixF& dy) {
  if (w.experts.empty()) return MlpBackward(config, w.mlp, a.dense, dy);
  MatrixF dx = MatrixF::Zero(x.rows(), x.cols());
  MatrixF dweight = MatrixF::Zero(x.rows(), static_cast<Eigen::Index>(w.experts.size()));
  for (size_t e = 0; e < w.experts.size(); ++e) {
    const ExpertActivations& expert = a.experts[e];
    if (expert.tokens.empty()) continue;
    MatrixF dout = Rows(dy, expert.tokens);
    for (size_t i = 0; i < expert.tokens.size(); ++i) {
      const auto row = static_cast<Eigen::Index>(i);
      dweight(expert.tokens[i], static_cast<Eigen::Index>(e)) =
          dout.row(row).dot(expert.out.row(row));
      dout.row(row) *= expert.weight[i];
    }
    const MatrixF dexpert = MlpBackward(config, w.experts[e], expert.mlp, dout);
    for (size_t i = 0; i < expert.tokens.size(); ++i) {
      dx.row(expert.tokens[i]) += dexpert.row(static_cast<Eigen::Index>(i));
    }
  }
  GemmNN(RouterGradient(config, a, std::move(dweight)), w.router, dx, 1, 1);
  return dx;
}

}  // namespace palu
