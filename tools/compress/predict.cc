#include "tools/compress/predict.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

namespace palu {
namespace {

// Inverse of the normal distribution function by bisection; called once per rank.
double NormalQuantile(double p) {
  double low = -10, high = 10;
  for (int i = 0; i < 80; ++i) {
    const double middle = 0.5 * (low + high);
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

// Variance of the rounding error of n normal numbers of variance 1: coded between their extremes,
// or in fp8, whose step is an eighth of a number's power of two.
double CodingVariance(int n, LatentFormat format) {
  if (format == LatentFormat::kFp8) return 7.04e-4;
  if (!IsQuantized(format)) return 0;
  const double step = NormalRange(n) / ((1 << Bits(format)) - 1);
  return step * step / 12;
}

int64_t BytesOf(const ProjectionSpec& spec) {
  int64_t bytes = 0;
  for (const int rank : spec.ranks) {
    bytes += RowBytes(spec.format, rank) + (IsQuantized(spec.format) ? kScaleBytes : 0);
  }
  return bytes;
}

Choice LowRank(const ProjectionFactors& factors, int head_dim, int blocks, LatentFormat format) {
  Choice choice;
  choice.spec = MakeSpec(SpreadRanks(factors, blocks), factors.heads_per_group, head_dim, format);
  choice.bytes = BytesOf(choice.spec);
  for (size_t g = 0; g < factors.groups.size(); ++g) {
    const int rank = choice.spec.ranks[g];
    const VectorD s = factors.groups[g].loss.head(rank).cwiseSqrt();
    choice.predicted.cut += 0.5 * factors.groups[g].LossFromRank(rank);
    choice.predicted.coding += 0.5 * s.sum() * s.mean() * CodingVariance(rank, format);
  }
  return choice;
}

// Heads as they are, rotated before they are coded.
Choice Dense(const MatrixD& metric, const VectorD& energy, int head_dim, LatentFormat format) {
  Choice choice;
  const Eigen::Index heads = energy.size() / head_dim;
  choice.spec.dense = true;
  choice.spec.format = format;
  choice.spec.heads_per_group = 1;
  choice.spec.hadamard = IsQuantized(format);
  choice.spec.ranks.assign(heads, head_dim);
  choice.bytes = BytesOf(choice.spec);
  for (Eigen::Index head = 0; head < heads; ++head) {
    const double trace = metric.diagonal().segment(head * head_dim, head_dim).sum();
    const double mean = energy.segment(head * head_dim, head_dim).mean();
    choice.predicted.dense_coding += 0.5 * trace * mean * CodingVariance(head_dim, format);
  }
  return choice;
}

void Prune(std::vector<Choice>* choices) {
  std::stable_sort(choices->begin(), choices->end(),
                   [](const Choice& a, const Choice& b) { return a.bytes < b.bytes; });
  std::vector<Choice> kept;
  for (const Choice& choice : *choices) {
    const bool beaten = std::any_of(kept.begin(), kept.end(), [&](const Choice& other) {
      return other.predicted.cut <= choice.predicted.cut &&
             other.predicted.coding <= choice.predicted.coding &&
             other.predicted.dense_coding <= choice.predicted.dense_coding;
    });
    if (!beaten) kept.push_back(choice);
  }
  *choices = std::move(kept);
}

// Whole ranks in few bits, and fractions of the ranks in 16 bits.
std::vector<Choice> Probes(const ProjectionFactors& factors, int head_dim, const Choice& dense) {
  const int blocks =
      static_cast<int>(factors.groups.size()) * (factors.width / RankBlock(factors.width));
  const auto coded = [&](LatentFormat format) {
    return LowRank(factors, head_dim, blocks, format);
  };
  const auto cut = [&](double kept) {
    const int least = static_cast<int>(factors.groups.size());
    return LowRank(factors, head_dim, std::max(least, static_cast<int>(std::lround(kept * blocks))),
                   LatentFormat::kF16);
  };
  return {cut(0.5),  coded(LatentFormat::kInt4), dense,    cut(0.3), coded(LatentFormat::kInt3),
          cut(0.75), coded(LatentFormat::kInt2), cut(0.15)};
}

}  // namespace

double NormalRange(int n) { return 2 * NormalQuantile((n - 0.375) / (n + 0.25)); }

std::vector<ChoiceList> MakeChoices(F32Model* model, const Statistics& statistics,
                                    const FactorStore& factors,
                                    const std::vector<LatentFormat>& formats) {
  const ModelConfig& config = model->config();
  std::vector<ChoiceList> lists;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const LayerStatistics& s = statistics.layers[layer];
    const F32LayerWeights& w = model->Layer(layer);
    for (const bool key : {true, false}) {
      const ProjectionFactors& f = factors.Of(layer, key);
      const MatrixD weight = (key ? w.k : w.v).cast<double>();
      const VectorD energy = (weight * s.input).cwiseProduct(weight).rowwise().sum();
      const int width = f.width;
      const int groups = static_cast<int>(f.groups.size());
      const auto dense = [&](LatentFormat format) {
        return Dense(key ? s.key_gradient : s.value_gradient, energy, config.head_dim, format);
      };
      ChoiceList list{layer, key, {}, Probes(f, config.head_dim, dense(LatentFormat::kInt4))};
      for (const LatentFormat format : formats) {
        list.choices.push_back(dense(format));
        for (int blocks = groups; blocks <= groups * (width / RankBlock(width)); ++blocks) {
          list.choices.push_back(LowRank(f, config.head_dim, blocks, format));
        }
      }
      Prune(&list.choices);
      lists.push_back(std::move(list));
    }
  }
  return lists;
}

std::vector<int> Knapsack(const std::vector<std::vector<int64_t>>& bytes,
                          const std::vector<std::vector<double>>& cost, int64_t budget) {
  int64_t unit = 0, smallest = 0;
  for (const auto& list : bytes) {
    for (const int64_t b : list) unit = std::gcd(unit, b);
    smallest += *std::min_element(list.begin(), list.end());
  }
  if (smallest > budget) {
    throw CompressError("budget of " + std::to_string(budget) +
                        " bytes per token is below the smallest possible cache, " +
                        std::to_string(smallest) + " bytes per token");
  }
  const auto slots = static_cast<size_t>(budget / unit) + 1;
  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::vector<double> best(slots, 0);
  std::vector<std::vector<int16_t>> taken(bytes.size(), std::vector<int16_t>(slots, -1));
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::vector<double> next(slots, kNever);
    for (size_t c = 0; c < bytes[i].size(); ++c) {
      const auto size = static_cast<size_t>(bytes[i][c] / unit);
      for (size_t b = size; b < slots; ++b) {
        const double total = best[b - size] + cost[i][c];
        if (total >= next[b]) continue;
        next[b] = total;
        taken[i][b] = static_cast<int16_t>(c);
      }
    }
    best = std::move(next);
  }
  std::vector<int> chosen(bytes.size());
  size_t left = slots - 1;
  for (size_t i = bytes.size(); i-- > 0;) {
    chosen[i] = taken[i][left];
    left -= static_cast<size_t>(bytes[i][chosen[i]] / unit);
  }
  return chosen;
}

}  // namespace palu
