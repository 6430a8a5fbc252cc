#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"

namespace palu::cpu {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
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

// One row of SampleArgs, on one thread.
class RowSampler {
 public:
  RowSampler(const KernelTable& kernels, const SampleArgs& args, int64_t row, float* logits,
             float* probabilities, int32_t* counts, int32_t* candidates)
      : kernels_(kernels),
        args_(args),
        row_(row),
        vocabulary_(args.logits.dim(1)),
        raw_(args.logits.ptr<float>() + row * args.logits.stride[0]),
        logits_(logits),
        probabilities_(probabilities),
        counts_(counts),
        candidates_(candidates) {}

  void Run() {
    int32_t token = Entry<int32_t>(args_.forced_token, row_, -1);
    if (token < 0) {
      std::memcpy(logits_, raw_, vocabulary_ * sizeof(float));
      AddBias();
      AddPenalties();
      ApplyMask();
      const float temperature = Entry(args_.temperature, row_, 0.0f);
      const int32_t best = Greedy(logits_);
      token = temperature < kGreedyTemperature ? best : Draw(best, temperature);
    }
    PALU_CHECK(token < vocabulary_);
    args_.tokens.ptr<int32_t>()[row_] = token;
    const int32_t wanted = Entry<int32_t>(args_.num_logprobs, row_, -1);
    if (wanted >= 0) Report(token, std::min<int32_t>(wanted, kMaxLogprobs));
  }

 private:
  void AddBias() {
    const Extent extent = ExtentOf(args_.bias_offsets, row_);
    for (int32_t i = extent.begin; i < extent.end; ++i) {
      const int32_t token = args_.bias_tokens.ptr<int32_t>()[i];
      PALU_CHECK(token >= 0 && token < vocabulary_);
      logits_[token] += args_.bias_values.ptr<float>()[i];
    }
  }

  void AddPenalties() {
    const float repetition = Entry(args_.repetition_penalty, row_, 1.0f);
    const float presence = Entry(args_.presence_penalty, row_, 0.0f);
    const float frequency = Entry(args_.frequency_penalty, row_, 0.0f);
    const Extent extent = ExtentOf(args_.history_offsets, row_);
    if (repetition == 1.0f && presence == 0.0f && frequency == 0.0f) return;
    const int32_t* history = args_.history.ptr<int32_t>();
    const int32_t outputs_begin = extent.begin + Entry<int32_t>(args_.prompt_lens, row_, 0);
    // counts_ is zero between rows; an entry is 1 + occurrences in the output.
    for (int32_t i = extent.begin; i < extent.end; ++i) {
      PALU_CHECK(history[i] >= 0 && history[i] < vocabulary_);
      int32_t& count = counts_[history[i]];
      if (count == 0) count = 1;
      if (i >= outputs_begin) ++count;
    }
    for (int32_t i = extent.begin; i < extent.end; ++i) {
      int32_t& count = counts_[history[i]];
      if (count == 0) continue;
      float& logit = logits_[history[i]];
      logit = logit > 0.0f ? logit / repetition : logit * repetition;
      if (count > 1) logit -= presence + frequency * static_cast<float>(count - 1);
      count = 0;
    }
  }

  void ApplyMask() {
    const int32_t mask_row = Entry<int32_t>(args_.mask_rows, row_, -1);
    if (!args_.mask.defined() || mask_row < 0) return;
    const int32_t* words = args_.mask.ptr<int32_t>() + mask_row * args_.mask.stride[0];
    for (int64_t first = 0; first < vocabulary_; first += 32) {
      const auto word = static_cast<uint32_t>(words[first / 32]);
      if (word == ~0u) continue;
      float* logits = logits_ + first;
      const auto count = std::min<int64_t>(32, vocabulary_ - first);
      for (int64_t t = 0; t < count; ++t) {
        logits[t] = ((word >> t) & 1u) == 0 ? kMinusInfinity : logits[t];
      }
    }
  }

  // Lowest index of the largest logit; NaN never wins.
  int32_t Greedy(const float* logits) const {
    constexpr int64_t kStretch = 512;
    int64_t best = 0;
    float largest = kMinusInfinity;
    for (int64_t t = 0; t < vocabulary_; t += kStretch) {
      const float here = kernels_.largest(logits + t, std::min(kStretch, vocabulary_ - t));
      if (here > largest) {
        largest = here;
        best = t;
      }
    }
    if (largest == kMinusInfinity) return 0;
    while (logits[best] != largest) ++best;
    return static_cast<int32_t>(best);
  }

  int32_t Draw(int32_t best, float temperature) {
    const float largest = logits_[best];
    if (!std::isfinite(largest)) return best;
    for (int64_t t = 0; t < vocabulary_; ++t) {
      const float scaled = (logits_[t] - largest) / temperature;
      logits_[t] = scaled <= 0.0f ? scaled : kMinusInfinity;
    }
    kernels_.exp_shifted(logits_, vocabulary_, 0.0f, probabilities_);
    const double u = Uniform(static_cast<uint64_t>(Entry<int64_t>(args_.seed, row_, 0)),
                             static_cast<uint64_t>(Entry<int64_t>(args_.draw_index, row_, 0)));
    const float floor = Entry(args_.min_p, row_, 0.0f);
    const int32_t top_k = Entry<int32_t>(args_.top_k, row_, 0);
    const float top_p = Entry(args_.top_p, row_, 1.0f);
    if (top_k > 0 || top_p < 1.0f) return DrawFrom(Candidates(top_k, top_p), floor, u, best);
    return DrawFromAll(floor, u, best);
  }

  bool Above(int32_t a, int32_t b) const {
    return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;
  }

  // Most probable tokens in descending order: top_k, then the smallest set that holds top_p of
  // them.
  std::span<const int32_t> Candidates(int32_t top_k, float top_p) {
    const int64_t kept = top_k > 0 ? std::min<int64_t>(top_k, vocabulary_) : vocabulary_;
    double total = 0;
    for (int64_t t = 0; t < vocabulary_; ++t) total += probabilities_[t];
    // Tokens below this cannot be needed to reach top_p: all of them together weigh too little.
    const double negligible =
        top_k > 0 ? 0.0 : (1.0 - top_p) * total / static_cast<double>(vocabulary_) * 0.999;
    int64_t count = 0;
    for (int64_t t = 0; t < vocabulary_; ++t) {
      if (probabilities_[t] > negligible) candidates_[count++] = static_cast<int32_t>(t);
    }
    const auto above = [this](int32_t a, int32_t b) { return Above(a, b); };
    const int64_t limit = std::min(kept, count);
    int64_t sorted = 0;
    if (top_k > 0) {
      std::partial_sort(candidates_, candidates_ + limit, candidates_ + count, above);
      sorted = limit;
      total = 0;
      for (int64_t i = 0; i < limit; ++i) total += probabilities_[candidates_[i]];
    }
    if (top_p >= 1.0f) return {candidates_, static_cast<size_t>(limit)};
    double sum = 0;
    for (int64_t i = 0; i < limit; ++i) {
      if (i == sorted) {
        sorted = std::min(limit, std::max<int64_t>(64, 4 * sorted));
        std::partial_sort(candidates_ + i, candidates_ + sorted, candidates_ + count, above);
      }
      sum += probabilities_[candidates_[i]];
      if (sum >= top_p * total) return {candidates_, static_cast<size_t>(i + 1)};
    }
    return {candidates_, static_cast<size_t>(limit)};
  }

  // Inverse of the cumulative distribution at u. The largest probability is 1 before normalizing,
  // so floor is min_p as it stands.
  int32_t DrawFrom(std::span<const int32_t> tokens, float floor, double u, int32_t best) const {
    double total = 0;
    for (int32_t t : tokens) total += probabilities_[t] >= floor ? probabilities_[t] : 0.0f;
    double sum = 0;
    for (int32_t t : tokens) {
      if (probabilities_[t] < floor) continue;
      sum += probabilities_[t];
      if (sum > u * total) return t;
    }
    return best;
  }

  int32_t DrawFromAll(float floor, double u, int32_t best) const {
    double total = 0;
    for (int64_t t = 0; t < vocabulary_; ++t) {
      total += probabilities_[t] >= floor ? probabilities_[t] : 0.0f;
    }
    double sum = 0;
    for (int64_t t = 0; t < vocabulary_; ++t) {
      if (probabilities_[t] < floor) continue;
      sum += probabilities_[t];
      if (sum > u * total) return static_cast<int32_t>(t);
    }
    return best;
  }

  // Log-probabilities and rank under the raw distribution.
  void Report(int32_t token, int32_t wanted) {
    const float largest = raw_[Greedy(raw_)];
    kernels_.exp_shifted(raw_, vocabulary_, largest, probabilities_);
    double total = 0;
    int32_t larger = 0;
    for (int64_t t = 0; t < vocabulary_; ++t) {
      total += probabilities_[t];
      larger += raw_[t] > raw_[token] ? 1 : 0;
    }
    const double log_total = static_cast<double>(largest) + std::log(total);
    args_.logprobs.ptr<float>()[row_] = static_cast<float>(raw_[token] - log_total);
    args_.ranks.ptr<int32_t>()[row_] = 1 + larger;
    if (wanted == 0) return;
    int32_t* tokens = args_.top_tokens.ptr<int32_t>() + row_ * args_.top_tokens.stride[0];
    float* logprobs = args_.top_logprobs.ptr<float>() + row_ * args_.top_logprobs.stride[0];
    const int32_t count = FindTop(std::min<int64_t>(wanted, vocabulary_), tokens);
    for (int32_t i = 0; i < count; ++i) {
      logprobs[i] = static_cast<float>(raw_[tokens[i]] - log_total);
    }
  }

  // The largest raw logits in descending order, lower index first among equals.
  int32_t FindTop(int64_t wanted, int32_t* tokens) const {
    int64_t count = 0;
    for (int64_t t = 0; t < vocabulary_; ++t) {
      if (count == wanted && !(raw_[t] > raw_[tokens[count - 1]])) continue;
      int64_t place = count < wanted ? count++ : count - 1;
      for (; place > 0 && raw_[t] > raw_[tokens[place - 1]]; --place) {
        tokens[place] = tokens[place - 1];
      }
      tokens[place] = static_cast<int32_t>(t);
    }
    return static_cast<int32_t>(count);
  }

  const KernelTable& kernels_;
  const SampleArgs& args_;
  const int64_t row_;
  const int64_t vocabulary_;
  const float* raw_;
  float* logits_;
  float* probabilities_;
  int32_t* counts_;
  int32_t* candidates_;
};

}  // namespace

void CpuBackend::Sample(const SampleArgs& args) {
  const int64_t vocabulary = args.logits.dim(1);
  PALU_CHECK(vocabulary <= scratch_.limits.vocab_size);
  pool_.Run(args.logits.dim(0), [&](int64_t row, int thread) {
    const int64_t offset = thread * vocabulary;
    RowSampler(*kernels_, args, row, scratch_.sample_logits.data() + offset,
               scratch_.sample_probabilities.data() + offset,
               scratch_.sample_counts.data() + offset, scratch_.sample_candidates.data() + offset)
        .Run();
  });
}

}  // namespace palu::cpu
