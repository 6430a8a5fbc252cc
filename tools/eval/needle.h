// Needle in a haystack: does the cache still hold one fact from far back?
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/eval/perplexity.h"

namespace palu {

struct NeedleOptions {
  int depths = 5;  // evenly from the window's beginning to its end
  int trials = 8;  // at every depth, each with another key and another piece of the text
  uint64_t seed = 0;
};

// At one depth, over its trials.
struct NeedleDepth {
  double depth = 0;    // of the needle in the window: 0 the beginning, 1 the end
  double found = 0;    // share of trials whose every answer token was the model's most likely
  double loss = 0;     // mean nats per answer token
  double without = 0;  // likewise, of the same window without the needle
};

struct NeedleResult {
  std::string model;
  int window = 0;
  std::vector<NeedleDepth> depths;
};

// A window is text (the recipe's window; documents or stream alike) with the sentence "The pass key
// is K. Remember it. K is the pass key." put in at the depth and " The pass key is" at its end; the
// answer is K, five digits, scored through the serving path as Evaluate does. Throws LoadError or
// std::runtime_error, one line.
NeedleResult FindNeedles(const EvalOptions& options, const NeedleOptions& needles,
                         const EvalProgress& progress);

nlohmann::json ToJson(const NeedleResult& result);
std::string NeedleTable(const NeedleResult& result);

}  // namespace palu
