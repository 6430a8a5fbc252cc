// What a load test sends and when: requests planned before the clock starts, so that making them
// costs nothing while it runs and a seed gives the same requests against every server.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "tools/bench/trace.h"

namespace palu::bench {

struct PlannedRequest {
  double start_seconds = 0;  // after the start; closed loops ignore it
  nlohmann::json prompt;     // a string or an array of token ids
  int max_tokens = 0;
};

// Makes prompts of about a wanted number of tokens: exact with token ids, by words per token with
// text. Not thread-safe; deterministic by seed.
class PromptSource {
 public:
  // Random token ids from [low, high).
  static PromptSource Ids(int32_t low, int32_t high, uint64_t seed);
  // Random words of the file's text (any white space parts them), or of a short list of common
  // English words when PATH is empty. Throws std::runtime_error if the file cannot be read or holds
  // no word.
  static PromptSource Words(const std::string& path, uint64_t seed);

  bool is_text() const { return !words_.empty(); }
  void set_words_per_token(double ratio) { words_per_token_ = ratio; }
  double words_per_token() const { return words_per_token_; }

  // A prompt that no other one of this source starts with.
  nlohmann::json Make(int tokens);
  // Requests with equal ids at the head share that many blocks; the rest is their own.
  nlohmann::json Make(int tokens, const std::vector<int64_t>& prefix_ids, int block_tokens);

 private:
  explicit PromptSource(uint64_t seed) : seed_(seed), random_(seed) {}
  void Append(int tokens, std::mt19937_64* random, nlohmann::json* prompt) const;

  uint64_t seed_;
  std::mt19937_64 random_;
  int32_t low_ = 0;
  int32_t high_ = 0;
  std::vector<std::string> words_;
  double words_per_token_ = 0.75;
};

enum class Arrivals { kPoisson, kFixed };

// COUNT requests of equal size; RATE requests a second, or 0 for a closed loop.
std::vector<PlannedRequest> PlanUniform(int count, int input_tokens, int output_tokens, double rate,
                                        Arrivals arrivals, uint64_t seed, PromptSource* source);

std::vector<PlannedRequest> PlanTrace(const Trace& trace, PromptSource* source);

}  // namespace palu::bench
