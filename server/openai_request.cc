#include "server/openai_request.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "server/chat_messages.h"
#include "server/json_fields.h"
#include "server/openai_params.h"

namespace palu {
namespace {

constexpr int kMaxInt = std::numeric_limits<int32_t>::max();
constexpr int kCompletionDefaultMaxTokens = 16;
constexpr int kMaxLogprobs = 20;

bool IsTokenId(const nlohmann::json& value) {
  const std::optional<int64_t> id = AsInteger(value);
  return id && *id >= 0 && *id <= kMaxInt;
}

std::optional<Prompt> TokenPrompt(const nlohmann::json& ids, const std::string& path,
                                  JsonFields* fields) {
  std::vector<int32_t> tokens;
  tokens.reserve(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!IsTokenId(ids[i])) {
      fields->Fail(path + "[" + std::to_string(i) + "]", "must be a token id");
      return std::nullopt;
    }
    tokens.push_back(static_cast<int32_t>(*AsInteger(ids[i])));
  }
  return tokens;
}

// A string, [string], [int] or [[int]].
void ReadPrompts(JsonFields* fields, std::vector<Prompt>* prompts) {
  const nlohmann::json* value = fields->Get("prompt");
  if (value == nullptr) return fields->Fail("prompt", "is required");
  if (value->is_string()) {
    prompts->emplace_back(value->get<std::string>());
    return;
  }
  if (!value->is_array() || value->empty()) {
    return fields->Fail("prompt",
                        "must be a string, an array of strings, an array of token ids or an array "
                        "of such arrays, and not empty");
  }
  if (value->front().is_number()) {
    if (auto prompt = TokenPrompt(*value, "prompt", fields)) prompts->push_back(std::move(*prompt));
    return;
  }
  const bool strings = value->front().is_string();
  for (size_t i = 0; i < value->size(); ++i) {
    const nlohmann::json& item = (*value)[i];
    const std::string path = "prompt[" + std::to_string(i) + "]";
    if (strings && item.is_string()) {
      prompts->emplace_back(item.get<std::string>());
    } else if (!strings && item.is_array()) {
      auto prompt = TokenPrompt(item, path, fields);
      if (!prompt) return;
      prompts->push_back(std::move(*prompt));
    } else {
      return fields->Fail(
          path, strings ? "must be a string like the first one" : "must be an array of token ids");
    }
  }
}

void ReadTemplateFields(JsonFields* fields, ChatTemplateInput* chat) {
  fields->Bool("add_generation_prompt", &chat->add_generation_prompt);
  fields->Bool("continue_final_message", &chat->continue_final_message);
  if (chat->continue_final_message && chat->add_generation_prompt) {
    if (fields->Has("add_generation_prompt")) {
      fields->Fail("continue_final_message",
                   "must not be true together with 'add_generation_prompt'");
    }
    chat->add_generation_prompt = false;
  }
  if (const nlohmann::json* value = fields->Get("chat_template_kwargs")) {
    if (!value->is_object()) {
      return fields->Fail("chat_template_kwargs",
                          std::string("must be an object, not ") + JsonTypeName(*value));
    }
    chat->kwargs = *value;
  }
  std::string chat_template;
  fields->String("chat_template", &chat_template);
  if (!chat_template.empty()) {
    fields->Fail("chat_template", "is not accepted from requests by this server");
  }
}

// The engine gives alternatives for prompt tokens too when the prompt is echoed with logprobs.
void SetLogprobs(OpenAiOptions* options, SamplingParams* sampling) {
  if (options->logprobs) sampling->num_logprobs = options->top_logprobs;
  sampling->num_prompt_logprobs = options->prompt_logprobs;
  if (options->echo && options->logprobs) {
    sampling->num_prompt_logprobs = std::max(options->prompt_logprobs, options->top_logprobs);
  }
}

}  // namespace

Result<CompletionRequest> ParseCompletionRequest(std::string_view body) {
  const Result<nlohmann::json> json = ParseJson(body);
  if (!json) return tl::unexpected(json.error());
  CompletionRequest request;
  JsonFields fields(*json, "");
  ReadSharedParams(&fields, &request.spec, &request.options);
  ReadPrompts(&fields, &request.spec.prompts);
  request.spec.default_max_tokens = kCompletionDefaultMaxTokens;
  fields.OptionalInt("max_tokens", 0, kMaxInt, &request.spec.max_tokens);
  fields.OptionalInt("max_completion_tokens", 0, kMaxInt, &request.spec.max_tokens);
  fields.Bool("echo", &request.options.echo);
  if (fields.Has("logprobs")) {
    request.options.logprobs = true;
    fields.Int("logprobs", 0, kMaxLogprobs, &request.options.top_logprobs);
  }
  SetLogprobs(&request.options, &request.spec.sampling);
  request.unknown_fields = fields.Unknown();
  if (!fields.status().ok()) return tl::unexpected(fields.status());
  return request;
}

Result<ChatRequest> ParseChatRequest(std::string_view body) {
  const Result<nlohmann::json> json = ParseJson(body);
  if (!json) return tl::unexpected(json.error());
  ChatRequest request;
  request.options.chat = true;
  JsonFields fields(*json, "");
  // A rendered template already has the special tokens that belong there.
  request.spec.add_special_tokens = false;
  ReadSharedParams(&fields, &request.spec, &request.options);
  ReadMessages(&fields, &request.chat.messages);
  ReadTemplateFields(&fields, &request.chat);
  fields.OptionalInt("max_tokens", 1, kMaxInt, &request.spec.max_tokens);
  fields.OptionalInt("max_completion_tokens", 1, kMaxInt, &request.spec.max_tokens);
  bool echo = false;
  fields.Bool("echo", &echo);
  if (echo) fields.Fail("echo", "is only supported by /v1/completions");
  fields.Bool("logprobs", &request.options.logprobs);
  fields.Int("top_logprobs", 0, kMaxLogprobs, &request.options.top_logprobs);
  if (request.options.top_logprobs > 0 && !request.options.logprobs) {
    fields.Fail("top_logprobs", "is only allowed when 'logprobs' is true");
  }
  SetLogprobs(&request.options, &request.spec.sampling);
  request.unknown_fields = fields.Unknown();
  if (!fields.status().ok()) return tl::unexpected(fields.status());
  return request;
}

Result<TokenizeRequest> ParseTokenizeRequest(std::string_view body) {
  const Result<nlohmann::json> json = ParseJson(body);
  if (!json) return tl::unexpected(json.error());
  TokenizeRequest request;
  JsonFields fields(*json, "");
  fields.String("model", &request.model);
  const bool chat = fields.Has("messages");
  if (chat == fields.Has("prompt")) {
    fields.Fail("prompt",
                chat ? "must not be given together with 'messages'" : "or 'messages' is required");
  } else if (chat) {
    ChatTemplateInput input;
    ReadMessages(&fields, &input.messages);
    ReadTemplateFields(&fields, &input);
    request.input = std::move(input);
    request.add_special_tokens = false;
  } else {
    std::string prompt;
    fields.String("prompt", &prompt);
    request.input = std::move(prompt);
  }
  fields.Bool("add_special_tokens", &request.add_special_tokens);
  fields.Bool("return_token_strs", &request.return_token_strings);
  if (!fields.status().ok()) return tl::unexpected(fields.status());
  return request;
}

Result<DetokenizeRequest> ParseDetokenizeRequest(std::string_view body) {
  const Result<nlohmann::json> json = ParseJson(body);
  if (!json) return tl::unexpected(json.error());
  DetokenizeRequest request;
  JsonFields fields(*json, "");
  fields.String("model", &request.model);
  if (!fields.Has("tokens")) fields.Fail("tokens", "is required");
  fields.TokenIds("tokens", &request.tokens);
  if (!fields.status().ok()) return tl::unexpected(fields.status());
  return request;
}

}  // namespace palu
