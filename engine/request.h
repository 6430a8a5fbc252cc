// What a client asks of the engine, in token ids, and what comes back.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace palu {

class TokenConstraint;

struct SamplingParams {
  int max_tokens = 16;  // >= 0; 0 only scores the prompt
  int min_tokens = 0;   // eos and stop ids are held back before this many
  float temperature = 1.0f;
  float top_p = 1.0f;
  int top_k = 0;  // <= 0: off
  float min_p = 0.0f;
  std::optional<uint64_t> seed;  // absent: the engine draws one
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<int32_t> allowed_token_ids;  // empty: all
  std::vector<int32_t> stop_token_ids;     // besides the model's eos ids
  bool ignore_eos = false;
  // Token sequences, none empty, that must not come about in the answer: the last token of one is
  // banned where the answer ends with those before it.
  std::vector<std::vector<int32_t>> bad_words;
  int num_logprobs = -1;         // -1: none; 0..20 top entries beside the chosen token
  int num_prompt_logprobs = -1;  // likewise for every prompt token but the first
};

// One vector made of a prompt's final hidden states (after the last norm).
enum class Pooling { kNone, kMean, kLast };

struct Request {
  std::string id;
  std::vector<int32_t> prompt;  // not empty
  SamplingParams sampling;
  int n = 1;                         // choices; they share the prompt's blocks
  int priority = 0;                  // lower first
  Pooling pooling = Pooling::kNone;  // if not: max_tokens is 0, and the prompt's vector is given
  uint64_t cache_salt = 0;           // prompts share cached blocks only under the same salt
  // Whose share this is charged to under the fair policy.
  std::string tenant;
  std::optional<std::chrono::steady_clock::time_point> deadline;
  std::shared_ptr<const TokenConstraint> constraint;  // null: any token; token_constraint.h
};

enum class FinishReason { kStop, kLength, kCancelled, kError };

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

struct OutputToken {
  int32_t token = 0;
  float logprob = 0;              // raw distribution; only if logprobs were asked for
  int32_t rank = 0;               // 1 = most likely; likewise
  std::vector<TokenLogprob> top;  // descending
};

// What happened to one choice since it was last read. A stop token is counted in tokens and marked
// by finish == kStop with stopped_by_token, so that its text can be left out.
struct OutputDelta {
  int choice = 0;
  std::vector<OutputToken> tokens;
  std::optional<FinishReason> finish;
  bool stopped_by_token = false;  // the last of tokens is eos or a stop id
};

// Filled in as the request goes; read with the final delta.
struct RequestTiming {
  using Clock = std::chrono::steady_clock;
  Clock::time_point arrival{};
  Clock::time_point scheduled{};  // first step that advanced it
  Clock::time_point first_token{};
  Clock::time_point finished{};
};

}  // namespace palu
