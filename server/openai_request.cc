#include "server/openai_request.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "server/chat_messages.h"
#include "server/json_fields.h"
#include "server/openai_params.h"
#include "server/openai_prompts.h"
#include "server/openai_structured.h"

namespace palu {
namespace {

constexpr int kMaxInt = std::numeric_limits<int32_t>::max();
constexpr int kCompletionDefaultMaxTokens = 16;
constexpr int kMaxLogprobs = 20;

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
  if (options->keep > 0) sampling->num_logprobs = std::max(sampling->num_logprobs, 0);
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
  ReadStructured(&fields, body, &request.spec);
  RefuseTools(&fields);
  ReadPrompts(&fields, "prompt", &request.spec.prompts);
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
  ReadStructured(&fields, body, &request.spec);
  ReadTools(&fields, body, &request);
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
