#include "engine/request_check.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>

#include "engine/cache/block_demand.h"

namespace palu {
namespace {

constexpr int kMaxChoices = 128;
constexpr int kMaxLogprobs = 20;

template <typename T>
Status Expected(const char* param, const char* expected, T found) {
  std::ostringstream message;
  message << param << " must be " << expected << ", got " << found;
  return InvalidArgument(message.str(), param);
}

Status CheckIds(const char* param, const std::vector<int32_t>& ids, int vocab_size) {
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab_size) continue;
    std::ostringstream message;
    message << param << ": token id " << id << " is outside the vocabulary of " << vocab_size;
    return InvalidArgument(message.str(), param);
  }
  return {};
}

Status CheckDistribution(const SamplingParams& p) {
  if (!(std::isfinite(p.temperature) && p.temperature >= 0)) {
    return Expected("temperature", "finite and at least 0", p.temperature);
  }
  if (!(p.top_p > 0 && p.top_p <= 1)) return Expected("top_p", "in (0, 1]", p.top_p);
  if (!(p.min_p >= 0 && p.min_p <= 1)) return Expected("min_p", "in [0, 1]", p.min_p);
  if (!(std::isfinite(p.repetition_penalty) && p.repetition_penalty > 0)) {
    return Expected("repetition_penalty", "finite and above 0", p.repetition_penalty);
  }
  if (!std::isfinite(p.presence_penalty)) {
    return Expected("presence_penalty", "finite", p.presence_penalty);
  }
  if (!std::isfinite(p.frequency_penalty)) {
    return Expected("frequency_penalty", "finite", p.frequency_penalty);
  }
  return {};
}

Status CheckCounts(const Request& request) {
  const SamplingParams& p = request.sampling;
  if (request.n < 1 || request.n > kMaxChoices) {
    return Expected("n", "in [1, 128]", request.n);
  }
  if (request.pooling != Pooling::kNone && (p.max_tokens != 0 || request.n != 1)) {
    return InvalidArgument("an embedding is made of a prompt alone", "max_tokens");
  }
  if (p.max_tokens < 0) return Expected("max_tokens", "at least 0", p.max_tokens);
  if (p.min_tokens < 0) return Expected("min_tokens", "at least 0", p.min_tokens);
  if (p.min_tokens > p.max_tokens) {
    return InvalidArgument("min_tokens (" + std::to_string(p.min_tokens) +
                               ") must not exceed max_tokens (" + std::to_string(p.max_tokens) +
                               ")",
                           "min_tokens");
  }
  if (p.num_logprobs < -1 || p.num_logprobs > kMaxLogprobs) {
    return Expected("logprobs", "in [0, 20]", p.num_logprobs);
  }
  if (p.num_prompt_logprobs < -1 || p.num_prompt_logprobs > kMaxLogprobs) {
    return Expected("prompt_logprobs", "in [0, 20]", p.num_prompt_logprobs);
  }
  return {};
}

Status CheckTokens(const Request& request, int vocab_size) {
  const SamplingParams& p = request.sampling;
  if (request.constraint != nullptr && !p.allowed_token_ids.empty()) {
    return InvalidArgument("allowed_token_ids cannot be combined with structured output",
                           "allowed_token_ids");
  }
  if (request.prompt.empty()) return InvalidArgument("the prompt has no tokens", "prompt");
  if (Status s = CheckIds("prompt", request.prompt, vocab_size); !s.ok()) return s;
  if (Status s = CheckIds("stop_token_ids", p.stop_token_ids, vocab_size); !s.ok()) return s;
  for (const auto& word : p.bad_words) {
    if (word.empty()) return InvalidArgument("bad_words has an empty word", "bad_words");
    if (Status s = CheckIds("bad_words", word, vocab_size); !s.ok()) return s;
  }
  if (Status s = CheckIds("allowed_token_ids", p.allowed_token_ids, vocab_size); !s.ok()) return s;
  for (const auto& [id, bias] : p.logit_bias) {
    if (Status s = CheckIds("logit_bias", {id}, vocab_size); !s.ok()) return s;
    if (!std::isfinite(bias)) return Expected("logit_bias", "finite", bias);
  }
  return {};
}

// Also clamps max_tokens.
Status CheckLength(const EngineLimits& limits, Request* request) {
  const int64_t prompt = static_cast<int64_t>(request->prompt.size());
  int& max_tokens = request->sampling.max_tokens;
  const int64_t context = limits.max_context_tokens;
  if (prompt > context || (prompt == context && max_tokens > 0)) {
    return InvalidArgument("the prompt has " + std::to_string(prompt) +
                               " tokens, but the model's context holds " + std::to_string(context) +
                               (prompt == context ? ", so none is left for an answer" : ""),
                           "prompt");
  }
  const BlockDemand demand = limits.demand();
  const int64_t capacity = demand.LongestIn(limits.num_blocks);
  const int64_t needed = prompt + (max_tokens > 0 ? 1 : 0);
  if (needed > capacity) {
    std::ostringstream message;
    message << "the prompt has " << prompt << " tokens, which need " << demand.BlocksOf(needed)
            << " cache blocks of " << limits.block_tokens << " tokens, but the whole cache has "
            << limits.num_blocks << " blocks (" << capacity << " tokens)";
    return InvalidArgument(message.str(), "prompt");
  }
  // The last token of an answer is never written to the cache.
  const int64_t room = std::min(context - prompt, capacity - prompt + 1);
  max_tokens = static_cast<int>(std::min<int64_t>(max_tokens, room));
  request->sampling.min_tokens = std::min(request->sampling.min_tokens, max_tokens);
  return {};
}

}  // namespace

RequestCheck CheckRequest(const EngineLimits& limits, Request* request) {
  if (Status s = CheckCounts(*request); !s.ok()) return {RequestFault::kInvalid, s};
  if (Status s = CheckDistribution(request->sampling); !s.ok()) return {RequestFault::kInvalid, s};
  if (Status s = CheckTokens(*request, limits.vocab_size); !s.ok()) {
    return {RequestFault::kInvalid, s};
  }
  if (Status s = CheckLength(limits, request); !s.ok()) return {RequestFault::kTooLong, s};
  return {};
}

}  // namespace palu
