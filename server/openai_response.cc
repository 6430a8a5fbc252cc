#include "server/openai_response.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "server/error_table.h"

namespace palu {

nlohmann::ordered_json UsageJson(const GenerationUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

nlohmann::ordered_json StopReasonJson(const ChoiceDelta& delta) {
  if (!delta.stop_string.empty()) return delta.stop_string;
  if (delta.stop_token) return *delta.stop_token;
  return nullptr;
}

const char* FinishReasonName(FinishReason reason, bool called) {
  if (reason == FinishReason::kLength) return "length";
  return called ? "tool_calls" : "stop";
}

std::string Dump(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string ErrorBody(const std::string& message, std::string_view type, const std::string& param,
                      int code) {
  nlohmann::ordered_json error = {{"message", message}, {"type", type}};
  error["param"] = param.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(param);
  error["code"] = code;
  return Dump({{"error", std::move(error)}});
}

std::string ErrorBody(const Status& status) {
  const ErrorMapping& mapping = MapStatusCode(status.code);
  return ErrorBody(status.message, mapping.type, status.param, mapping.http_status);
}

UnaryResponse::UnaryResponse(ResponseContext context)
    : context_(std::move(context)),
      choices_(static_cast<size_t>(context_.num_choices)),
      prompt_logprobs_(static_cast<size_t>(context_.num_choices / context_.n)) {}

void UnaryResponse::Add(const PumpOutput& output) {
  for (const PromptLogprobs& prompt : output.prompt_logprobs) {
    prompt_logprobs_[static_cast<size_t>(prompt.prompt)] = prompt.tokens;
  }
  for (const ChoiceDelta& delta : output.deltas) {
    Choice& choice = choices_[static_cast<size_t>(delta.index)];
    choice.text += delta.text;
    if (context_.options.logprobs || context_.options.keep > 0) {
      choice.tokens.insert(choice.tokens.end(), delta.tokens.begin(), delta.tokens.end());
    }
    if (!delta.finish) continue;
    choice.last.finish = delta.finish;
    choice.last.stop_string = delta.stop_string;
    choice.last.stop_token = delta.stop_token;
  }
  usage_ = output.usage;
}

nlohmann::ordered_json UnaryResponse::PromptLogprobsJsonOf(size_t prompt) const {
  return PromptLogprobsJson(prompt_logprobs_[prompt], context_.options.prompt_logprobs,
                            *context_.tokenizer);
}

std::vector<size_t> UnaryResponse::Shown(size_t prompt) const {
  const auto n = static_cast<size_t>(context_.n);
  std::vector<size_t> shown(n);
  std::iota(shown.begin(), shown.end(), prompt * n);
  if (context_.options.keep == 0) return shown;
  // By log-probability per token, so that short answers have no advantage.
  const auto score = [this](size_t index) {
    double sum = 0;
    for (const OutputToken& token : choices_[index].tokens) sum += token.logprob;
    return sum / static_cast<double>(std::max<size_t>(choices_[index].tokens.size(), 1));
  };
  std::stable_sort(shown.begin(), shown.end(),
                   [&](size_t a, size_t b) { return score(a) > score(b); });
  shown.resize(static_cast<size_t>(context_.options.keep));
  return shown;
}

nlohmann::ordered_json UnaryResponse::ChoiceJson(size_t index, size_t shown_index) const {
  const Choice& choice = choices_[index];
  const OpenAiOptions& options = context_.options;
  const size_t prompt = index / static_cast<size_t>(context_.n);
  nlohmann::ordered_json json = {{"index", shown_index}};
  bool called = false;
  nlohmann::ordered_json logprobs;
  if (options.chat) {
    if (options.tools != nullptr) {
      ToolCallMessage message(options.tool_format, *options.tools);
      json["message"] = message.Whole(choice.text);
      called = message.called();
    } else {
      json["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    }
    if (options.logprobs) {
      logprobs = ChatLogprobsJson(choice.tokens, options.top_logprobs, *context_.tokenizer);
    }
  } else {
    json["text"] = options.echo ? context_.prompt_texts[prompt] + choice.text : choice.text;
    if (options.logprobs) {
      LegacyLogprobs legacy;
      if (options.echo) {
        legacy.AddPrompt(context_.prompt_ids[prompt], prompt_logprobs_[prompt],
                         options.top_logprobs, context_.skip_special_tokens, *context_.tokenizer);
      }
      legacy.Add(choice.tokens, options.top_logprobs, context_.skip_special_tokens,
                 *context_.tokenizer);
      logprobs = legacy.Take();
    }
  }
  json["logprobs"] = std::move(logprobs);
  json["finish_reason"] =
      FinishReasonName(choice.last.finish.value_or(FinishReason::kStop), called);
  json["stop_reason"] = StopReasonJson(choice.last);
  if (!options.chat && options.prompt_logprobs >= 0) {
    json["prompt_logprobs"] = PromptLogprobsJsonOf(prompt);
  }
  return json;
}

std::string UnaryResponse::Body() const {
  nlohmann::ordered_json json = {
      {"id", context_.id},
      {"object", context_.options.chat ? "chat.completion" : "text_completion"},
      {"created", context_.created},
      {"model", context_.model}};
  nlohmann::ordered_json& choices = json["choices"] = nlohmann::ordered_json::array();
  for (size_t prompt = 0; prompt < prompt_logprobs_.size(); ++prompt) {
    for (const size_t index : Shown(prompt)) choices.push_back(ChoiceJson(index, choices.size()));
  }
  json["usage"] = UsageJson(usage_);
  if (context_.options.chat && context_.options.prompt_logprobs >= 0) {
    json["prompt_logprobs"] = PromptLogprobsJsonOf(0);
  }
  return Dump(json);
}

}  // namespace palu
