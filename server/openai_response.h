// JSON of OpenAI-style responses and stream chunks. Pure: outputs of the pump in, text out.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "server/openai_logprobs.h"
#include "server/openai_request.h"
#include "server/openai_tool_calls.h"
#include "server/sink.h"
#include "server/text/tokenizer.h"

namespace palu {

// What all parts of one response share.
struct ResponseContext {
  std::string id;  // cmpl-… or chatcmpl-…
  int64_t created = 0;
  std::string model;
  OpenAiOptions options;
  int n = 1;
  int num_choices = 1;  // prompts times n
  bool skip_special_tokens = true;
  const Tokenizer* tokenizer = nullptr;  // outlives the response
  // With echo or prompt_logprobs: per prompt.
  std::vector<std::vector<int32_t>> prompt_ids;
  std::vector<std::string> prompt_texts;
};

// Shared by both forms.
nlohmann::ordered_json UsageJson(const GenerationUsage& usage);
nlohmann::ordered_json StopReasonJson(const ChoiceDelta& delta);
// called: the choice has tool calls.
const char* FinishReasonName(FinishReason reason, bool called = false);
// Bytes that are no UTF-8 become U+FFFD.
std::string Dump(const nlohmann::ordered_json& json);
// {"error": {...}} of docs/api.md.
std::string ErrorBody(const std::string& message, std::string_view type, const std::string& param,
                      int code);
std::string ErrorBody(const Status& status);

// Collects a whole response. Used by one thread at a time.
class UnaryResponse {
 public:
  explicit UnaryResponse(ResponseContext context);
  void Add(const PumpOutput& output);
  std::string Body() const;

 private:
  struct Choice {
    std::string text;
    std::vector<OutputToken> tokens;
    ChoiceDelta last;  // finish and reason
  };
  nlohmann::ordered_json ChoiceJson(size_t index, size_t shown_index) const;
  // Choices of a prompt that are shown, in order.
  std::vector<size_t> Shown(size_t prompt) const;
  nlohmann::ordered_json PromptLogprobsJsonOf(size_t prompt) const;

  const ResponseContext context_;
  std::vector<Choice> choices_;
  std::vector<std::vector<OutputToken>> prompt_logprobs_;
  GenerationUsage usage_;
};

// Makes the events of a stream. Used by one thread at a time.
class StreamResponse {
 public:
  explicit StreamResponse(ResponseContext context);
  // "data: …\n\n" for every chunk that this output gives; "" if it gives none. With the final
  // output: usage or the error, and the end mark.
  std::string Events(const PumpOutput& output);

 private:
  struct Choice {
    bool started = false;
    LegacyLogprobs legacy;
    std::unique_ptr<ToolCallMessage> tools;  // if the request has some
  };
  // A chunk with this choice, or none if it is null, and these further members.
  void AddEvent(const nlohmann::ordered_json& choice, const nlohmann::ordered_json& further,
                std::string* events) const;
  std::string ChatEvents(const ChoiceDelta& delta, const GenerationUsage& usage);
  std::string CompletionEvents(const ChoiceDelta& delta, const GenerationUsage& usage);
  void SetUsage(const GenerationUsage& usage, nlohmann::ordered_json* further) const;
  std::string End(const PumpOutput& output);

  const ResponseContext context_;
  const std::string head_;  // of every event, up to the choice
  std::vector<Choice> choices_;
  std::vector<std::vector<OutputToken>> prompt_logprobs_;
  bool prompt_told_ = false;  // chats: with the first chunk
};

}  // namespace palu
