// Bodies of the OpenAI-style routes, parsed and validated. Pure functions: no sockets, no model.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/status.h"
#include "server/generation.h"
#include "server/structured/structured_spec.h"
#include "server/text/chat_template.h"

namespace palu {

// How the answer is to be given.
struct OpenAiOptions {
  bool chat = false;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool echo = false;
  bool logprobs = false;
  int top_logprobs = 0;  // entries shown per token; meaningful with logprobs
  int prompt_logprobs = -1;
  int keep = 0;  // of the n choices the likeliest so many are shown; 0: all
  // Chats with tools that may be called; null: text is text.
  std::shared_ptr<const structured::ToolRequest> tools;
  structured::ToolFormat tool_format = structured::ToolFormat::kJson;  // the model's
};

struct CompletionRequest {
  GenerationSpec spec;
  OpenAiOptions options;
  std::vector<std::string> unknown_fields;
};

struct ChatRequest {
  GenerationSpec spec;  // prompts are filled in once the template is rendered
  OpenAiOptions options;
  ChatTemplateInput chat;
  std::vector<std::string> unknown_fields;
};

struct TokenizeRequest {
  std::string model;
  std::variant<std::string, ChatTemplateInput> input;
  bool add_special_tokens = true;
  bool return_token_strings = false;
};

struct DetokenizeRequest {
  std::string model;
  std::vector<int32_t> tokens;
};

// Each gives kInvalidArgument with the field at fault in Status::param.
Result<CompletionRequest> ParseCompletionRequest(std::string_view body);
Result<ChatRequest> ParseChatRequest(std::string_view body);
Result<TokenizeRequest> ParseTokenizeRequest(std::string_view body);
Result<DetokenizeRequest> ParseDetokenizeRequest(std::string_view body);

}  // namespace palu
