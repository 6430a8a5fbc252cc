// What choosing a token costs the CPU backend, per row, at the vocabulary of Llama 3.
//   sample_bench [INSTRUCTION_SET] [REPETITIONS]
// One thread; prints microseconds of CPU time, medians.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace palu {
namespace {

constexpr int64_t kVocabulary = 128256, kRows = 16;

struct Setting {
  const char* name;
  float temperature = 1.0f, top_p = 1.0f, min_p = 0.0f;
  int top_k = 0;
  float presence = 0.0f;
  int num_logprobs = -1;
};

constexpr Setting kSettings[] = {
    {.name = "greedy", .temperature = 0.0f},
    {.name = "temperature 1"},
    {.name = "temperature 0.7", .temperature = 0.7f},
    {.name = "top_p 0.9", .top_p = 0.9f},
    {.name = "top_k 50", .top_k = 50},
    {.name = "top_k 50, top_p 0.9", .top_p = 0.9f, .top_k = 50},
    {.name = "min_p 0.05", .min_p = 0.05f},
    {.name = "presence penalty", .presence = 0.5f},
    {.name = "greedy, 5 logprobs", .temperature = 0.0f, .num_logprobs = 5},
};

double CpuMicros() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return 1e6 * static_cast<double>(time.tv_sec) + 1e-3 * static_cast<double>(time.tv_nsec);
}

// Tokens in random order; the probability of the r-th most probable falls as r^-1.5, as that of a
// model that knows what comes next does about, or (flat) logits are normal.
std::vector<float> Logits(bool flat) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> logits;
  std::vector<float> row(kVocabulary);
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t t = 0; t < kVocabulary; ++t) {
      row[static_cast<size_t>(t)] =
          flat ? 2 * normal(random)
               : -1.5f * std::log(static_cast<float>(t + 1)) + 0.3f * normal(random);
    }
    std::shuffle(row.begin(), row.end(), random);
    logits.insert(logits.end(), row.begin(), row.end());
  }
  return logits;
}

template <typename T>
Tensor View(std::vector<T>* values, DType dtype, std::initializer_list<int64_t> shape) {
  return Tensor(values->data(), dtype, shape);
}

double MicrosPerRow(Backend* backend, std::vector<float> logits, const Setting& s,
                    int repetitions) {
  std::vector<float> temperature(kRows, s.temperature), top_p(kRows, s.top_p),
      min_p(kRows, s.min_p), presence(kRows, s.presence), logprobs(kRows),
      top_logprobs(kRows * kMaxLogprobs);
  std::vector<int32_t> top_k(kRows, s.top_k), wanted(kRows, s.num_logprobs), history(kRows * 1000),
      offsets(kRows + 1), tokens(kRows), ranks(kRows), top_tokens(kRows * kMaxLogprobs);
  std::vector<int64_t> seed(kRows, 1), index(kRows);
  for (size_t i = 0; i < history.size(); ++i) history[i] = static_cast<int32_t>(i * 7919 % 100000);
  for (size_t i = 0; i < offsets.size(); ++i) offsets[i] = static_cast<int32_t>(i * 1000);
  SampleArgs args;
  args.logits = View(&logits, DType::kF32, {kRows, kVocabulary});
  args.temperature = View(&temperature, DType::kF32, {kRows});
  args.top_p = View(&top_p, DType::kF32, {kRows});
  args.min_p = View(&min_p, DType::kF32, {kRows});
  args.top_k = View(&top_k, DType::kI32, {kRows});
  args.seed = View(&seed, DType::kI64, {kRows});
  args.draw_index = View(&index, DType::kI64, {kRows});
  args.num_logprobs = View(&wanted, DType::kI32, {kRows});
  args.presence_penalty = View(&presence, DType::kF32, {kRows});
  args.history = View(&history, DType::kI32, {kRows * 1000});
  args.history_offsets = View(&offsets, DType::kI32, {kRows + 1});
  args.tokens = View(&tokens, DType::kI32, {kRows});
  args.logprobs = View(&logprobs, DType::kF32, {kRows});
  args.ranks = View(&ranks, DType::kI32, {kRows});
  args.top_tokens = View(&top_tokens, DType::kI32, {kRows, kMaxLogprobs});
  args.top_logprobs = View(&top_logprobs, DType::kF32, {kRows, kMaxLogprobs});
  std::vector<double> times;
  for (int i = 0; i < repetitions + 1; ++i) {
    for (int64_t& one : index) ++one;
    const double begin = CpuMicros();
    backend->Sample(args);
    if (i > 0) times.push_back((CpuMicros() - begin) / kRows);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

int Main(int argc, char** argv) {
  BackendOptions options;
  options.device = "cpu";
  options.cpu_threads = 1;
  if (argc > 1) options.cpu_isa = argv[1];
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 15;
  const auto backend = CreateBackend(options);
  StepLimits limits;
  limits.max_tokens = limits.max_sequences = kRows;
  limits.vocab_size = kVocabulary;
  backend->Reserve(limits);
  std::printf("%s, vocabulary %ld, us per row: %24s %10s\n", backend->isa().c_str(),
              static_cast<long>(kVocabulary), "peaked", "flat");
  for (const Setting& setting : kSettings) {
    std::printf("%-60s %6.0f %10.0f\n", setting.name,
                MicrosPerRow(backend.get(), Logits(false), setting, repetitions),
                MicrosPerRow(backend.get(), Logits(true), setting, repetitions));
  }
  return 0;
}

}  // namespace
}  // namespace palu

int main(int argc, char** argv) { return palu::Main(argc, argv); }
