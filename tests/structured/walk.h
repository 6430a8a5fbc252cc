// Random outputs under a grammar, as a model without any sense would make them.
#pragma once

#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "server/structured/grammar_constraint.h"

namespace palu::structured {

// The token that ends an output in the vocabularies below; it has no bytes.
inline constexpr int32_t kStop = 0;

// Every single byte, and `pieces` besides.
std::shared_ptr<const Vocabulary> MakeVocabulary(const std::vector<std::string>& pieces,
                                                 bool strips_leading_space = false);
// Pieces of JSON and of words, many of which run over the ends of strings, values and keys.
std::shared_ptr<const Vocabulary> JsonVocabulary(bool strips_leading_space = false);

struct Walked {
  std::string text;
  std::vector<int32_t> ids;  // without the stop
  int tokens = 0;            // likewise
  bool complete = false;     // the text matches the grammar
  bool stopped = false;      // by the stop token, not by the budget
};

// Draws evenly among the tokens of each mask, stopping with probability `stop` where that is
// allowed. At each step up to `checks` random tokens are compared with what Matcher says of them; a
// difference is a test failure. stop_id ends an output and must have no bytes that fit.
Walked RandomWalk(std::shared_ptr<MaskedGrammar> masked, int max_tokens, std::mt19937* random,
                  double stop = 0.3, int checks = 0, int32_t stop_id = kStop);

// True if the grammar matches the whole text.
bool Matches(const Grammar& grammar, std::string_view text);

}  // namespace palu::structured
