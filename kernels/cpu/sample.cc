#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <span>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"

namespace palu::cpu {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();
// Exponents below this weigh nothing, however they were rounded.
constexpr float kNoExponent = -88.0f;
// Below this temperature the choice is greedy.
constexpr float kGreedyTemperature = 1e-5f;

template <typename T>
T Entry(const Tensor& tensor, int64_t row, T otherwise) {
  return tensor.defined() ? tensor.ptr<T>()[row] : otherwise;
}

// [offsets[row], offsets[row + 1]), or nothing.
struct Extent {
  int32_t begin = 0, end = 0;
};

Extent ExtentOf(const Tensor& offsets, int64_t row) {
  if (!offsets.defined()) return {};
  return {offsets.ptr<int32_t>()[row], offsets.ptr<int32_t>()[row + 1]};
}

uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// In [0, 1), a function of the two numbers alone.
double Uniform(uint64_t seed, uint64_t draw_index) {
  return static_cast<double>(Mix(Mix(seed) ^ Mix(~draw_index)) >> 11) * 0x1p-53;
}

// Descending, lower index first among equals.
bool Above(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

double SumOf(std::span<const Candidate> candidates) {
  double sum = 0;
  for (const Candidate& one : candidates) sum += static_cast<double>(one.weight);
  return sum;
}

// How many candidates in descending order it takes until their weights' sum passes target (or
// reaches it, if it may be equal); all if it never does. Those then come first, the last of them
// last. Quickselect by weight: nothing is sorted but a few around that one.
size_t CountReaching(std::span<Candidate> all, double target, bool may_equal) {
  constexpr size_t kSorted = 32;
  const auto reached = [&](double sum) { return may_equal ? sum >= target : sum > target; };
  size_t begin = 0, end = all.size();
  double before = 0;
  while (end - begin > kSorted) {
    Candidate& middle = all[begin + (end - begin) / 2];
    std::swap(all[begin], middle);
    const Candidate pivot = all[begin];
    const auto split = std::partition(all.begin() + static_cast<std::ptrdiff_t>(begin) + 1,
                                      all.begin() + static_cast<std::ptrdiff_t>(end),
                                      [&](const Candidate& one) { return Above(one, pivot); });
    const auto place = static_cast<size_t>(split - all.begin()) - 1;
    std::swap(all[begin], all[place]);
    const double above = before + SumOf(all.subspan(begin, place - begin));
    if (reached(above)) {
      end = place;
      continue;
    }
    before = above + static_cast<double>(pivot.weight);
    begin = place + 1;
    if (reached(before)) return begin;
  }
  std::sort(all.begin() + static_cast<std::ptrdiff_t>(begin),
            all.begin() + static_cast<std::ptrdiff_t>(end), Above);
  for (; begin < end; ++begin) {
    before += static_cast<double>(all[begin].weight);
    if (reached(before)) return begin + 1;
  }
  return end;
}

// What a thread has for the row that it works on; V logits in stretches of kSampleStretch.
struct RowBuffers {
  float* logits;          // [V]
  int32_t* counts;        // [V], zero between rows
  Candidate* candidates;  // [V]
  float* maxima;          // [stretches]
  float* ordered;         // [stretches]
  double* sums;           // [stretches]
};

// One row of SampleArgs, on one thread. Weights are not kept but made again where they are needed:
// most stretches hold nothing that matters, which their largest logit tells.
class RowSampler {
 public:
  RowSampler(const KernelTable& kernels, const SampleArgs& args, int64_t row,
             const RowBuffers& buffers)
      : kernels_(kernels),
        args_(args),
        row_(row),
        vocabulary_(args.logits.dim(1)),
        stretches_(RoundUp(vocabulary_, kSampleStretch) / kSampleStretch),
        raw_(args.logits.ptr<float>() + row * args.logits.stride[0]),
        buffers_(buffers) {}

  void Run() {
    int32_t token = Entry<int32_t>(args_.forced_token, row_, -1);
    if (token < 0) {
      Adjust();
      const float temperature = Entry(args_.temperature, row_, 0.0f);
      const int32_t best = FindLargest();
      token = temperature < kGreedyTemperature ? best : Draw(best, temperature);
    }
    PALU_CHECK(token < vocabulary_);
    args_.tokens.ptr<int32_t>()[row_] = token;
    const int32_t wanted = Entry<int32_t>(args_.num_logprobs, row_, -1);
    if (wanted >= 0) Report(token, std::min<int32_t>(wanted, kMaxLogprobs));
  }

 private:
  // From here on logits_ are what is chosen from: the raw ones, or a copy with bias, penalties and
  // mask.
  void Adjust() {
    const Extent bias = ExtentOf(args_.bias_offsets, row_);
    const Extent history = ExtentOf(args_.history_offsets, row_);
    const bool penalties =
        history.begin < history.end && (Entry(args_.repetition_penalty, row_, 1.0f) != 1.0f ||
                                        Entry(args_.presence_penalty, row_, 0.0f) != 0.0f ||
                                        Entry(args_.frequency_penalty, row_, 0.0f) != 0.0f);
    const int32_t mask_row = args_.mask.defined() ? Entry<int32_t>(args_.mask_rows, row_, -1) : -1;
    logits_ = raw_;
    if (bias.begin == bias.end && !penalties && mask_row < 0) return;
    logits_ = buffers_.logits;
    std::memcpy(buffers_.logits, raw_, vocabulary_ * sizeof(float));
    for (int32_t i = bias.begin; i < bias.end; ++i) {
      const int32_t token = args_.bias_tokens.ptr<int32_t>()[i];
      PALU_CHECK(token >= 0 && token < vocabulary_);
      buffers_.logits[token] += args_.bias_values.ptr<float>()[i];
    }
    if (penalties) AddPenalties();
    if (mask_row < 0) return;
    kernels_.keep_allowed(args_.mask.ptr<uint32_t>() + mask_row * args_.mask.stride[0], vocabulary_,
                          buffers_.logits);
  }

  void AddPenalties() {
    const float repetition = Entry(args_.repetition_penalty, row_, 1.0f);
    const float presence = Entry(args_.presence_penalty, row_, 0.0f);
    const float frequency = Entry(args_.frequency_penalty, row_, 0.0f);
    const Extent extent = ExtentOf(args_.history_offsets, row_);
    const int32_t* history = args_.history.ptr<int32_t>();
    const int32_t outputs_begin = extent.begin + Entry<int32_t>(args_.prompt_lens, row_, 0);
    // counts are zero between rows; an entry is 1 + occurrences in the output.
    for (int32_t i = extent.begin; i < extent.end; ++i) {
      PALU_CHECK(history[i] >= 0 && history[i] < vocabulary_);
      int32_t& count = buffers_.counts[history[i]];
      if (count == 0) count = 1;
      if (i >= outputs_begin) ++count;
    }
    for (int32_t i = extent.begin; i < extent.end; ++i) {
      int32_t& count = buffers_.counts[history[i]];
      if (count == 0) continue;
      float& logit = buffers_.logits[history[i]];
      logit = logit > 0.0f ? logit / repetition : logit * repetition;
      if (count > 1) logit -= presence + frequency * static_cast<float>(count - 1);
      count = 0;
    }
  }

  int64_t StretchSize(int64_t stretch) const {
    return std::min(kSampleStretch, vocabulary_ - stretch * kSampleStretch);
  }

  // Also finds the stretches' maxima, which what follows goes by. Lowest index of the largest
  // logit; NaN never wins.
  int32_t FindLargest() {
    kernels_.stretch_maxima(logits_, vocabulary_, buffers_.maxima);
    const float* largest = std::max_element(buffers_.maxima, buffers_.maxima + stretches_);
    if (*largest == kMinusInfinity) return 0;
    int64_t token = (largest - buffers_.maxima) * kSampleStretch;
    while (logits_[token] != *largest) ++token;
    return static_cast<int32_t>(token);
  }

  int32_t Draw(int32_t best, float temperature) {
    WeightScale scale{.largest = logits_[best], .temperature = temperature};
    if (!std::isfinite(scale.largest)) return best;
    const double u = Uniform(static_cast<uint64_t>(Entry<int64_t>(args_.seed, row_, 0)),
                             static_cast<uint64_t>(Entry<int64_t>(args_.draw_index, row_, 0)));
    // The largest weight is 1, so floor is min_p as it stands.
    const float floor = Entry(args_.min_p, row_, 0.0f);
    const int32_t top_k = Entry<int32_t>(args_.top_k, row_, 0);
    const float top_p = Entry(args_.top_p, row_, 1.0f);
    if (top_k <= 0 && top_p >= 1.0f) {
      scale.floor = floor;
      return DrawFromAll(scale, u, best);
    }
    std::span<Candidate> kept;
    double total = 0;
    if (top_k > 0) {
      kept = Largest(top_k, kLowest);
      Weigh(kept, scale);
      total = SumOf(kept);
    } else {
      total = SumStretches(scale);
      kept = Nucleus(scale, top_p, total);
    }
    if (top_p < 1.0f) kept = kept.first(CountReaching(kept, top_p * total, true));
    return DrawFrom(kept, floor, u, best);
  }

  // The candidates of at least this logit.
  std::span<Candidate> Collect(float bound) const {
    int64_t count = 0;
    for (int64_t s = 0; s < stretches_; ++s) {
      if (buffers_.maxima[s] < bound) continue;
      const int64_t first = s * kSampleStretch;
      count += kernels_.collect_at_least(logits_ + first, StretchSize(s), bound,
                                         static_cast<int32_t>(first), buffers_.candidates + count);
    }
    return {buffers_.candidates, static_cast<size_t>(count)};
  }

  // The largest of the stretches' maxima down to this place among them.
  float OrderedMaximum(int64_t place) const {
    std::copy_n(buffers_.maxima, stretches_, buffers_.ordered);
    std::nth_element(buffers_.ordered, buffers_.ordered + place, buffers_.ordered + stretches_,
                     std::greater<>());
    return buffers_.ordered[place];
  }

  // The first `wanted` tokens in descending order, in any order; none below `lowest`.
  std::span<Candidate> Largest(int64_t wanted, float lowest) const {
    // So many stretches have a token of at least this logit.
    const float bound =
        wanted <= stretches_ ? std::max(OrderedMaximum(wanted - 1), lowest) : lowest;
    const std::span<Candidate> all = Collect(bound);
    if (static_cast<int64_t>(all.size()) <= wanted) return all;
    std::nth_element(all.begin(), all.begin() + wanted - 1, all.end(), Above);
    return all.first(static_cast<size_t>(wanted));
  }

  void Weigh(std::span<Candidate> candidates, const WeightScale& scale) const {
    float values[kSampleStretch];
    for (size_t first = 0; first < candidates.size(); first += kSampleStretch) {
      const auto some =
          candidates.subspan(first, std::min<size_t>(kSampleStretch, candidates.size() - first));
      for (size_t i = 0; i < some.size(); ++i) values[i] = some[i].logit;
      kernels_.weights(values, static_cast<int64_t>(some.size()), scale, values);
      for (size_t i = 0; i < some.size(); ++i) some[i].weight = values[i];
    }
  }

  // Fills the sums of the stretches; returns theirs.
  double SumStretches(const WeightScale& scale) const {
    // Of floor's logarithm a little less: weights are rounded.
    const float least = scale.floor > 0.0f ? std::log(scale.floor) - 1e-3f : kNoExponent;
    double total = 0;
    for (int64_t s = 0; s < stretches_; ++s) {
      const bool nothing = (buffers_.maxima[s] - scale.largest) / scale.temperature < least;
      buffers_.sums[s] =
          nothing ? 0 : kernels_.weight_sum(logits_ + s * kSampleStretch, StretchSize(s), scale);
      total += buffers_.sums[s];
    }
    return total;
  }

  // Candidates that hold at least top_p of the total weight, the largest among them: those above
  // one bound after the other until they are enough.
  std::span<Candidate> Nucleus(const WeightScale& scale, float top_p, double total) const {
    const double needed = top_p * total;
    // Tokens below this cannot be needed: all of them together weigh too little.
    const double negligible = (1.0 - top_p) * total / static_cast<double>(vocabulary_) * 0.99;
    const float last = std::max(
        kLowest, scale.largest + scale.temperature * static_cast<float>(std::log(negligible)));
    const auto bound_of = [&](int step) {
      if (step == 0) return OrderedMaximum(std::min<int64_t>(7, stretches_ - 1));
      if (step == 1) return OrderedMaximum(std::min<int64_t>(63, stretches_ - 1));
      if (step == 4) return last;
      const float lowest_maximum = OrderedMaximum(stretches_ - 1);
      return step == 2 ? lowest_maximum : 0.5f * lowest_maximum + 0.5f * last;
    };
    constexpr int kSteps = 6;
    std::span<Candidate> found;
    for (int step = 0; step < kSteps; ++step) {
      const float bound = step + 1 < kSteps ? std::max(bound_of(step), kLowest) : kLowest;
      double most = 0;
      for (int64_t s = 0; s < stretches_; ++s) {
        if (buffers_.maxima[s] >= bound) most += buffers_.sums[s];
      }
      if (most < needed && bound > kLowest) continue;
      found = Collect(bound);
      Weigh(found, scale);
      if (SumOf(found) >= needed) break;
    }
    return found;
  }

  // In descending order: the inverse of the cumulative distribution at u.
  int32_t DrawFrom(std::span<Candidate> kept, float floor, double u, int32_t best) const {
    const auto end = std::partition(kept.begin(), kept.end(), [floor](const Candidate& one) {
      return one.weight > 0.0f && one.weight >= floor;
    });
    kept = {kept.begin(), end};
    const size_t count = CountReaching(kept, u * SumOf(kept), false);
    return count == 0 ? best : kept[count - 1].token;
  }

  // The same in the order of tokens.
  int32_t DrawFromAll(const WeightScale& scale, double u, int32_t best) const {
    const double target = u * SumStretches(scale);
    double sum = 0;
    int64_t s = 0;
    while (s < stretches_ && !(sum + buffers_.sums[s] > target)) sum += buffers_.sums[s++];
    if (s == stretches_) return best;
    float weights[kSampleStretch];
    const int64_t first = s * kSampleStretch;
    kernels_.weights(logits_ + first, StretchSize(s), scale, weights);
    // Sums in another order may differ in their last bits: the last one if none seems to pass.
    int64_t last = 0;
    for (int64_t t = 0; t < StretchSize(s); ++t) {
      if (weights[t] <= 0.0f) continue;
      last = t;
      sum += static_cast<double>(weights[t]);
      if (sum > target) break;
    }
    return static_cast<int32_t>(first + last);
  }

  // Log-probabilities and rank under the raw distribution.
  void Report(int32_t token, int32_t wanted) {
    if (logits_ != raw_) {
      logits_ = raw_;
      FindLargest();
    }
    const float largest = *std::max_element(buffers_.maxima, buffers_.maxima + stretches_);
    const double log_total =
        static_cast<double>(largest) + std::log(SumStretches({.largest = largest}));
    int64_t larger = 0;
    for (int64_t s = 0; s < stretches_; ++s) {
      if (!(buffers_.maxima[s] > raw_[token])) continue;
      larger += kernels_.count_above(raw_ + s * kSampleStretch, StretchSize(s), raw_[token]);
    }
    args_.logprobs.ptr<float>()[row_] = static_cast<float>(raw_[token] - log_total);
    args_.ranks.ptr<int32_t>()[row_] = static_cast<int32_t>(1 + larger);
    if (wanted == 0) return;
    int32_t* tokens = args_.top_tokens.ptr<int32_t>() + row_ * args_.top_tokens.stride[0];
    float* logprobs = args_.top_logprobs.ptr<float>() + row_ * args_.top_logprobs.stride[0];
    const std::span<Candidate> top =
        Largest(std::min<int64_t>(wanted, vocabulary_), kMinusInfinity);
    std::sort(top.begin(), top.end(), Above);
    for (size_t i = 0; i < top.size(); ++i) {
      tokens[i] = top[i].token;
      logprobs[i] = static_cast<float>(top[i].logit - log_total);
    }
  }

  const KernelTable& kernels_;
  const SampleArgs& args_;
  const int64_t row_;
  const int64_t vocabulary_, stretches_;
  const float* raw_;
  const float* logits_ = nullptr;
  const RowBuffers buffers_;
};

}  // namespace

void CpuBackend::Sample(const SampleArgs& args) {
  const int64_t vocabulary = args.logits.dim(1);
  PALU_CHECK(vocabulary <= scratch_.limits.vocab_size);
  const int64_t stretches = RoundUp(vocabulary, kSampleStretch) / kSampleStretch;
  pool_.Run(args.logits.dim(0), [&](int64_t row, int thread) {
    const RowBuffers buffers = {
        .logits = scratch_.sample_logits.data() + thread * vocabulary,
        .counts = scratch_.sample_counts.data() + thread * vocabulary,
        .candidates = scratch_.sample_candidates.data() + thread * vocabulary,
        .maxima = scratch_.sample_maxima.data() + thread * stretches,
        .ordered = scratch_.sample_ordered_maxima.data() + thread * stretches,
        .sums = scratch_.sample_sums.data() + thread * stretches};
    RowSampler(*kernels_, args, row, buffers).Run();
  });
}

}  // namespace palu::cpu
