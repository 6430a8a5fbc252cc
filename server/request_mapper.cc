#include "server/request_mapper.h"

#include <algorithm>
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

}  // namespace

Result<std::vector<Request>> MapGeneration(const GenerationSpec& spec, const Tokenizer& tokenizer,
                                           const EngineLimits& limits) {
  std::vector<Request> requests;
  for (const Prompt& prompt : spec.prompts) {
    Request request;
    request.id = spec.request_id;
    request.sampling = spec.sampling;
    request.n = spec.n;
    request.priority = spec.priority;
    request.deadline = spec.deadline;
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
