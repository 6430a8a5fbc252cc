// Ops in double, one naive loop each. Matrices are row-major vectors.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/backend.h"

namespace palu::reference {

using Values = std::vector<double>;

// x [rows, depth] times weight [cols, depth] transposed.
inline Values Matmul(const Values& x, const Values& weight, size_t rows, size_t depth,
                     size_t cols) {
  Values out(rows * cols, 0.0);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) {
      for (size_t k = 0; k < depth; ++k)
        out[r * cols + c] += x[r * depth + k] * weight[c * depth + k];
    }
  }
  return out;
}

// Each run of weight.size() numbers on its own.
inline Values RmsNorm(const Values& x, const Values& weight, double eps, double offset) {
  const size_t width = weight.size();
  Values out(x.size());
  for (size_t base = 0; base < x.size(); base += width) {
    double squares = 0;
    for (size_t i = 0; i < width; ++i) squares += x[base + i] * x[base + i];
    const double rms = std::sqrt(squares / static_cast<double>(width) + eps);
    for (size_t i = 0; i < width; ++i) out[base + i] = x[base + i] / rms * (weight[i] + offset);
  }
  return out;
}

// One head in place; row holds rotary / 2 cosines, then as many sines.
inline void Rope(double* head, const double* row, size_t rotary) {
  const size_t half = rotary / 2;
  for (size_t i = 0; i < half; ++i) {
    const double x = head[i], y = head[i + half];
    head[i] = x * row[i] - y * row[half + i];
    head[i + half] = x * row[half + i] + y * row[i];
  }
}

// cos_sin table [positions, rotary].
inline Values RopeTable(size_t positions, size_t rotary, double theta) {
  Values table(positions * rotary);
  for (size_t p = 0; p < positions; ++p) {
    for (size_t i = 0; i < rotary / 2; ++i) {
      const double frequency =
          std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotary));
      table[p * rotary + i] = std::cos(static_cast<double>(p) * frequency);
      table[p * rotary + rotary / 2 + i] = std::sin(static_cast<double>(p) * frequency);
    }
  }
  return table;
}

// Sign of entry (i, j) of Sylvester's matrix is the parity of i & j.
inline Values Hadamard(const Values& x, size_t head_dim) {
  size_t block = 1;
  while (head_dim % (2 * block) == 0) block *= 2;
  Values out(x.size(), 0.0);
  for (size_t base = 0; base < x.size(); base += block) {
    for (size_t i = 0; i < block; ++i) {
      for (size_t j = 0; j < block; ++j) {
        out[base + i] += (__builtin_parityll(i & j) != 0 ? -1.0 : 1.0) * x[base + j];
      }
      out[base + i] /= std::sqrt(static_cast<double>(block));
    }
  }
  return out;
}

inline double Activate(Activation activation, double x) {
  if (activation == Activation::kSilu) return x / (1.0 + std::exp(-x));
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}

struct Expert {
  Values gate, up, down;
};

// One token.
inline Values Moe(const Values& x, const Values& logits, const std::vector<Expert>& experts,
                  size_t top_k, bool normalize, Activation activation) {
  const size_t width = x.size(), hidden = experts[0].gate.size() / width;
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  double total = 0, kept = 0;
  for (double logit : logits) total += std::exp(logit);
  for (size_t k = 0; k < top_k; ++k) kept += std::exp(logits[order[k]]) / total;
  Values out(width, 0.0);
  for (size_t k = 0; k < top_k; ++k) {
    const Expert& expert = experts[order[k]];
    const double weight = std::exp(logits[order[k]]) / total / (normalize ? kept : 1.0);
    const Values gate = Matmul(x, expert.gate, 1, width, hidden);
    Values inner = Matmul(x, expert.up, 1, width, hidden);
    for (size_t i = 0; i < hidden; ++i) inner[i] *= Activate(activation, gate[i]);
    const Values result = Matmul(inner, expert.down, 1, hidden, width);
    for (size_t i = 0; i < width; ++i) out[i] += weight * result[i];
  }
  return out;
}

}  // namespace palu::reference
