#include "server/request_mapper.h"

#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace palu {
namespace {

void Truncate(const std::optional<int>& limit, int max_context, std::vector<int32_t>* tokens) {
  if (!limit) return;
  const size_t keep = static_cast<size_t>(*limit < 0 ? max_context - 1 : *limit);
  if (tokens->size() > keep)
    tokens->erase(tokens->begin(), tokens->end() - static_cast<int64_t>(keep));
}

// How many tokens to generate after a prompt of this length. Prompts that are too long themselves
// are left to the engine, which knows the cache too.
Result<int> SettleMaxTokens(const GenerationSpec& spec, int prompt_tokens, int max_context) {
  const int room = std::max(max_context - prompt_tokens, 1);
  if (!spec.max_tokens) return std::min(spec.default_max_tokens.value_or(room), room);
  if (*spec.max_tokens > room && prompt_tokens < max_context) {
    return tl::unexpected(InvalidArgument(
        "This model's maximum context length is " + std::to_string(max_context) +
            " tokens. However, you asked for " + std::to_string(prompt_tokens) +
            " in the prompt and " + std::to_string(*spec.max_tokens) + " in the completion, " +
            std::to_string(int64_t{prompt_tokens} + *spec.max_tokens) + " in all",
        "max_tokens"));
  }
  return *spec.max_tokens;
}

// As vLLM does: the word at the start of a text, and after a space where that is one token sequence
// of the same length with another beginning.
std::vector<std::vector<int32_t>> EncodeBadWords(const std::vector<std::string>& words,
                                                 const Tokenizer& tokenizer) {
  std::vector<std::vector<int32_t>> encoded;
  for (const std::string& word : words) {
    const size_t start = word.find_first_not_of(" \t\r\n");
    const std::string bare = start == std::string::npos ? word : word.substr(start);
    std::vector<int32_t> plain = tokenizer.Encode(bare, false);
    std::vector<int32_t> spaced = tokenizer.Encode(" " + bare, false);
    if (plain.empty()) continue;
    if (spaced.size() == plain.size() && spaced.front() != plain.front()) {
      encoded.push_back(std::move(spaced));
    }
    encoded.push_back(std::move(plain));
  }
  return encoded;
}

// Of a cryptographic hash, so that nobody finds another salt with the same number.
uint64_t SaltNumber(const std::string& salt) {
  if (salt.empty()) return 0;
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(salt.data()), salt.size(), digest);
  uint64_t number = 0;
  std::memcpy(&number, digest, sizeof(number));
  return std::max<uint64_t>(number, 1);
}

}  // namespace

Result<std::vector<Request>> MapGeneration(const GenerationSpec& spec, const Tokenizer& tokenizer,
                                           const EngineLimits& limits) {
  std::vector<Request> requests;
  const auto bad_words = EncodeBadWords(spec.bad_words, tokenizer);
  for (const Prompt& prompt : spec.prompts) {
    Request request;
    request.id = spec.request_id;
    request.sampling = spec.sampling;
    request.n = spec.n;
    request.priority = spec.priority;
    request.tenant = spec.tenant;
    request.deadline = spec.deadline;
    request.pooling = spec.pooling;
    request.cache_salt = SaltNumber(spec.cache_salt);
    request.sampling.bad_words = bad_words;
    if (const auto* text = std::get_if<std::string>(&prompt)) {
      request.prompt = tokenizer.Encode(*text, spec.add_special_tokens);
    } else {
      request.prompt = std::get<std::vector<int32_t>>(prompt);
    }
    Truncate(spec.truncate_prompt_tokens, limits.max_context_tokens, &request.prompt);
    const Result<int> max_tokens =
        SettleMaxTokens(spec, static_cast<int>(request.prompt.size()), limits.max_context_tokens);
    if (!max_tokens) return tl::unexpected(max_tokens.error());
    request.sampling.max_tokens = *max_tokens;
    requests.push_back(std::move(request));
  }
  return requests;
}

}  // namespace palu
