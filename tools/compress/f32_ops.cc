#include "tools/compress/f32_ops.h"

#include <algorithm>
#include <cmath>

#include "tools/compress/blas.h"

namespace palu {
namespace {

constexpr int kLogitRows = 256;
constexpr float kGeluA = 0.7978845608028654f;  // sqrt(2 / pi)
constexpr float kGeluB = 0.044715f;

}  // namespace

MatrixF Linear(const MatrixF& x, const MatrixF& weight, const VectorF& bias) {
  MatrixF y(x.rows(), weight.rows());
  GemmNT(x, weight, y);
  if (bias.size() > 0) y.rowwise() += bias.transpose();
  return y;
}

MatrixF RmsNorm(const MatrixF& x, const VectorF& weight, float eps, float offset) {
  const Eigen::Index width = weight.size();
  MatrixF y(x.rows(), x.cols());
  const Eigen::RowVectorXf gain = weight.transpose().array() + offset;
  for (Eigen::Index t = 0; t < x.rows(); ++t) {
    for (Eigen::Index c = 0; c < x.cols(); c += width) {
      const auto in = x.row(t).segment(c, width);
      const float inverse = 1.0f / std::sqrt(in.squaredNorm() / static_cast<float>(width) + eps);
      y.row(t).segment(c, width) = (in * inverse).cwiseProduct(gain);
    }
  }
  return y;
}

MatrixF RmsNormBackward(const MatrixF& x, const MatrixF& dy, const VectorF& weight, float eps,
                        float offset) {
  const Eigen::Index width = weight.size();
  MatrixF dx(x.rows(), x.cols());
  const Eigen::RowVectorXf gain = weight.transpose().array() + offset;
  for (Eigen::Index t = 0; t < x.rows(); ++t) {
    for (Eigen::Index c = 0; c < x.cols(); c += width) {
      const auto in = x.row(t).segment(c, width);
      const float inverse = 1.0f / std::sqrt(in.squaredNorm() / static_cast<float>(width) + eps);
      const Eigen::RowVectorXf g = dy.row(t).segment(c, width).cwiseProduct(gain);
      const float projection = g.dot(in) * inverse * inverse / static_cast<float>(width);
      dx.row(t).segment(c, width) = (g - in * projection) * inverse;
    }
  }
  return dx;
}

void Rope(MatrixF* x, const MatrixF& cos_sin, int head_dim, int sign) {
  const Eigen::Index half = cos_sin.cols() / 2;
  for (Eigen::Index t = 0; t < x->rows(); ++t) {
    const float* cosine = cos_sin.row(t).data();
    const float* sine = cosine + half;
    for (Eigen::Index head = 0; head < x->cols(); head += head_dim) {
      float* a = x->row(t).data() + head;
      float* b = a + half;
      for (Eigen::Index i = 0; i < half; ++i) {
        const float s = static_cast<float>(sign) * sine[i];
        const float first = a[i] * cosine[i] - b[i] * s;
        b[i] = b[i] * cosine[i] + a[i] * s;
        a[i] = first;
      }
    }
  }
}

MatrixF GatedActivation(const MatrixF& gate, const MatrixF& up, Activation activation) {
  const auto g = gate.array();
  if (activation == Activation::kSilu) return g / (1.0f + (-g).exp()) * up.array();
  return 0.5f * g * (1.0f + (kGeluA * (g + kGeluB * g.cube())).tanh()) * up.array();
}

void GatedActivationBackward(MatrixF* gate, MatrixF* up, const MatrixF& dy, Activation activation) {
  const auto g = gate->array();
  MatrixF act, slope;
  if (activation == Activation::kSilu) {
    const MatrixF sigmoid = 1.0f / (1.0f + (-g).exp());
    act = g * sigmoid.array();
    slope = sigmoid.array() * (1.0f + g * (1.0f - sigmoid.array()));
  } else {
    const MatrixF tanh = (kGeluA * (g + kGeluB * g.cube())).tanh();
    act = 0.5f * g * (1.0f + tanh.array());
    slope = 0.5f * (1.0f + tanh.array()) + 0.5f * g * (1.0f - tanh.array().square()) * kGeluA *
                                               (1.0f + 3.0f * kGeluB * g.square());
  }
  *gate = dy.array() * up->array() * slope.array();
  *up = dy.array() * act.array();
}

double CrossEntropy(const MatrixF& x, const MatrixF& head, std::span<const int32_t> ids,
                    MatrixF* dx) {
  const auto tokens = static_cast<int>(x.rows());
  const auto hidden = static_cast<int>(x.cols());
  if (dx != nullptr) dx->setZero(tokens, hidden);
  double loss = 0;
  for (int begin = 0; begin + 1 < tokens; begin += kLogitRows) {
    const int rows = std::min(kLogitRows, tokens - 1 - begin);
    MatrixF logits(rows, head.rows());
    const Strided in(const_cast<float*>(x.data()) + static_cast<size_t>(begin) * hidden, rows,
                     hidden, hidden);
    GemmNT(in, head, logits);
    for (int r = 0; r < rows; ++r) {
      const int32_t target = ids[begin + r + 1];
      auto row = logits.row(r).array();
      const float peak = row.maxCoeff();
      const float target_logit = row[target];
      row = (row - peak).exp();
      const double sum = row.cast<double>().sum();
      loss += std::log(sum) + peak - target_logit;
      if (dx == nullptr) continue;
      row *= static_cast<float>(1.0 / sum);
      row[target] -= 1.0f;
    }
    if (dx == nullptr) continue;
    GemmNN(logits, head,
           Strided(dx->data() + static_cast<size_t>(begin) * hidden, rows, hidden, hidden));
  }
  return loss;
}

WindowDivergence Divergence(const MatrixF& x, const DivergenceReference& reference,
                            const MatrixF& head, std::span<const int32_t> ids) {
  const auto tokens = static_cast<int>(x.rows());
  const auto hidden = static_cast<int>(x.cols());
  const auto logits_of = [&](const MatrixF& m, int begin, int rows) {
    MatrixF logits(rows, head.rows());
    GemmNT(Strided(const_cast<float*>(m.data()) + static_cast<size_t>(begin) * hidden, rows, hidden,
                   hidden),
           head, logits);
    return logits;
  };
  WindowDivergence sum;
  Eigen::ArrayXf weight(head.rows());
  for (int begin = 0; begin + 1 < tokens; begin += kLogitRows) {
    const int rows = std::min(kLogitRows, tokens - 1 - begin);
    const MatrixF q = logits_of(x, begin, rows);
    const MatrixF p = reference.logits.size() > 0
                          ? MatrixF(reference.logits.middleRows(begin, rows))
                          : logits_of(reference.normed, begin, rows);
    for (int r = 0; r < rows; ++r) {
      const auto q_row = q.row(r).transpose().array(), p_row = p.row(r).transpose().array();
      const float q_peak = q_row.maxCoeff(), p_peak = p_row.maxCoeff();
      const double q_log = std::log((q_row - q_peak).exp().cast<double>().sum()) + q_peak;
      weight = (p_row - p_peak).exp();
      const double p_sum = weight.cast<double>().sum(), p_log = std::log(p_sum) + p_peak;
      const double gap = (weight * (p_row - q_row)).cast<double>().sum() / p_sum;
      sum.loss += q_log - q_row[ids[begin + r + 1]];
      sum.kl += gap - p_log + q_log;
    }
  }
  return sum;
}

}  // namespace palu
