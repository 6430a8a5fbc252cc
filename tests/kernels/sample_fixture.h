// Sampling problems for tests: one struct per row, uploaded as the arrays of SampleArgs.
#pragma once

#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "tests/kernels/test_backend.h"

namespace palu {

struct SampleCase {
  std::vector<double> logits;
  float temperature = 0.0f;
  int top_k = 0;
  float top_p = 1.0f, min_p = 0.0f;
  int64_t seed = 0, draw_index = 0;
  int forced_token = -1;
  int num_logprobs = -1;
  float repetition = 1.0f, presence = 0.0f, frequency = 0.0f;
  std::vector<int32_t> prompt = {}, output = {};  // history
  std::vector<std::pair<int32_t, float>> bias = {};
  std::vector<int32_t> allowed = {};  // empty: no mask
};

struct Sampled {
  std::vector<int32_t> tokens, ranks, top_tokens;
  std::vector<double> logprobs, top_logprobs;
};

inline constexpr float kBanned = -std::numeric_limits<float>::infinity();

// Rows must have equally many logits.
Sampled RunSample(Backend* backend, const std::vector<SampleCase>& rows);

// Probabilities of the tokens that a row may draw, by definition: bias, penalties, mask,
// temperature, top_k, top_p, min_p.
std::map<int32_t, double> Distribution(const SampleCase& row);

// log softmax of the raw logits.
std::vector<double> RawLogprobs(const SampleCase& row);

}  // namespace palu
