#include "tools/compress/allocate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/check.h"

namespace palu {
namespace {

constexpr int kRankBlock = 16;

// One group, or for kFisherUniform one matrix: unit ranks are added at a time.
struct Item {
  int layer = 0;
  bool key = true;
  int first_group = 0, groups = 1;
  int unit = kRankBlock;
  int cap = 0;       // units
  double score = 0;  // Fisher
};

std::vector<Item> MakeItems(const ModelConfig& config, const Statistics& statistics,
                            const FactorStore& factors, bool key, bool whole_matrix) {
  std::vector<Item> items;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const LayerStatistics& s = statistics.layers[layer];
    const VectorD& fisher = key ? s.key_fisher : s.value_fisher;
    const int width = factors.Of(layer, key).heads_per_group * config.head_dim;
    const int groups = static_cast<int>(factors.Of(layer, key).groups.size());
    const int step = whole_matrix ? groups : 1;
    for (int g = 0; g < groups; g += step) {
      Item item{layer, key, g, step, RankBlock(width), width / RankBlock(width), 0};
      if (fisher.size() > 0) {
        item.score = fisher.segment(Eigen::Index{g} * width, step * width).mean();
      }
      items.push_back(item);
    }
  }
  return items;
}

double BlockGain(const GroupSpectrum& factors, int block, int unit) {
  return factors.loss.segment(Eigen::Index{block} * unit, unit).sum();
}

// Units of the largest gain over all items; gains inside an item are descending.
std::vector<int> LargestGains(const std::vector<Item>& items, const FactorStore& factors,
                              int total) {
  std::vector<int> units(items.size(), 1);
  std::vector<std::pair<double, int>> gains;
  for (size_t i = 0; i < items.size(); ++i) {
    const GroupSpectrum& f = factors.Of(items[i].layer, items[i].key).groups[items[i].first_group];
    for (int block = 1; block < items[i].cap; ++block) {
      gains.emplace_back(-BlockGain(f, block, items[i].unit), static_cast<int>(i));
    }
  }
  std::stable_sort(gains.begin(), gains.end());
  const size_t left = static_cast<size_t>(std::max(0, total - static_cast<int>(items.size())));
  for (size_t i = 0; i < std::min(left, gains.size()); ++i) ++units[gains[i].second];
  return units;
}

std::vector<int> UnitsOf(const std::vector<Item>& items, const FactorStore& factors,
                         RankSearch search, double keep) {
  int all = 0;
  std::vector<int> caps;
  std::vector<double> scores;
  for (const Item& item : items) {
    all += item.cap;
    caps.push_back(item.cap);
    scores.push_back(item.score);
  }
  if (search == RankSearch::kUniform) {
    std::vector<int> units;
    for (const int cap : caps) {
      units.push_back(std::clamp(static_cast<int>(std::lround(keep * cap)), 1, cap));
    }
    return units;
  }
  const int total = static_cast<int>(std::lround(keep * all));
  if (search == RankSearch::kKfac) return LargestGains(items, factors, total);
  return SplitBlocks(scores, caps, total);
}

}  // namespace

int RankBlock(int width) { return std::min(kRankBlock, width & -width); }

std::vector<int> SplitBlocks(const std::vector<double>& scores, const std::vector<int>& caps,
                             int total) {
  const size_t n = scores.size();
  PALU_CHECK(n == caps.size());
  const int sum_caps = std::accumulate(caps.begin(), caps.end(), 0);
  total = std::clamp(total, static_cast<int>(n), sum_caps);
  // Water-filling: shares above a cap are cut to it and the rest is shared again.
  std::vector<double> share(n, 0);
  std::vector<bool> full(n, false);
  for (bool again = true; again;) {
    again = false;
    double left = total, weight = 0;
    for (size_t i = 0; i < n; ++i) {
      if (full[i]) left -= caps[i];
      if (!full[i]) weight += scores[i];
    }
    for (size_t i = 0; i < n; ++i) {
      if (full[i]) continue;
      share[i] = weight > 0 ? left * scores[i] / weight : 1.0;
      if (share[i] < caps[i]) continue;
      share[i] = caps[i];
      full[i] = again = true;
    }
  }
  std::vector<int> blocks(n);
  int used = 0;
  for (size_t i = 0; i < n; ++i) {
    blocks[i] = std::clamp(static_cast<int>(share[i]), 1, caps[i]);
    used += blocks[i];
  }
  while (used != total) {
    const int step = used < total ? 1 : -1;
    size_t best = n;
    for (size_t i = 0; i < n; ++i) {
      if (step > 0 ? blocks[i] == caps[i] : blocks[i] == 1) continue;
      if (best == n || step * (share[i] - blocks[i]) > step * (share[best] - blocks[best]))
        best = i;
    }
    blocks[best] += step;
    used += step;
  }
  return blocks;
}

ProjectionSpec MakeSpec(std::vector<int> ranks, int heads_per_group, int head_dim,
                        LatentFormat format) {
  ProjectionSpec spec;
  const int width = heads_per_group * head_dim;
  spec.format = format;
  spec.dense = !IsQuantized(format) &&
               std::all_of(ranks.begin(), ranks.end(), [&](int r) { return r == width; });
  spec.heads_per_group = heads_per_group;
  spec.ranks = std::move(ranks);
  return spec;
}

std::vector<int> SpreadRanks(const ProjectionFactors& factors, int blocks) {
  const int width = factors.width;
  const int unit = RankBlock(width);
  std::vector<int> ranks(factors.groups.size(), unit);
  for (int spent = static_cast<int>(ranks.size()); spent < blocks; ++spent) {
    size_t best = ranks.size();
    double best_gain = -1;
    for (size_t g = 0; g < ranks.size(); ++g) {
      if (ranks[g] + unit > width) continue;
      const double gain = BlockGain(factors.groups[g], ranks[g] / unit, unit);
      if (gain > best_gain) {
        best = g;
        best_gain = gain;
      }
    }
    if (best == ranks.size()) break;
    ranks[best] += unit;
  }
  return ranks;
}

CompressionPlan Allocate(const ModelConfig& config, const Statistics& statistics,
                         const FactorStore& factors, const AllocationOptions& options) {
  const bool fisher =
      options.search == RankSearch::kFisher || options.search == RankSearch::kFisherUniform;
  if (fisher && !statistics.has_gradients) {
    throw CompressError("rank search by Fisher information needs gradients");
  }
  const bool whole = options.search == RankSearch::kFisherUniform;
  const std::vector<Item> keys = MakeItems(config, statistics, factors, true, whole);
  std::vector<Item> values = MakeItems(config, statistics, factors, false, whole);
  CompressionPlan plan(config.num_layers);
  const auto apply = [&](const std::vector<Item>& items, double keep) {
    const std::vector<int> units = UnitsOf(items, factors, options.search, keep);
    for (size_t i = 0; i < items.size(); ++i) {
      ProjectionSpec& spec = items[i].key ? plan[items[i].layer].key : plan[items[i].layer].value;
      for (int g = 0; g < items[i].groups; ++g) spec.ranks.push_back(units[i] * items[i].unit);
    }
  };
  if (options.shared) {
    values.insert(values.begin(), keys.begin(), keys.end());
    apply(values, options.keep_key);
  } else {
    apply(keys, options.keep_key);
    apply(values, options.keep_value);
  }
  for (int layer = 0; layer < config.num_layers; ++layer) {
    LayerSpec& spec = plan[layer];
    spec.key = MakeSpec(std::move(spec.key.ranks), factors.Of(layer, true).heads_per_group,
                        config.head_dim, options.key_format);
    spec.value = MakeSpec(std::move(spec.value.ranks), factors.Of(layer, false).heads_per_group,
                          config.head_dim, options.value_format);
  }
  return plan;
}

}  // namespace palu
