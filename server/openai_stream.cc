// StreamResponse: the chunks of server-sent events.
#include <utility>

#include "server/openai_response.h"

namespace palu {
namespace {

// What all chunks share is written once: a stream has one for every token.
std::string EventHead(const ResponseContext& context) {
  const nlohmann::ordered_json chunk = {
      {"id", context.id},
      {"object", context.options.chat ? "chat.completion.chunk" : "text_completion"},
      {"created", context.created},
      {"model", context.model},
      {"choices", nlohmann::ordered_json::array()}};
  std::string text = "data: " + Dump(chunk);
  text.resize(text.size() - std::string_view("]}").size());
  return text;
}

}  // namespace

StreamResponse::StreamResponse(ResponseContext context)
    : context_(std::move(context)),
      head_(EventHead(context_)),
      choices_(static_cast<size_t>(context_.num_choices)),
      prompt_logprobs_(static_cast<size_t>(context_.num_choices / context_.n)) {}

void StreamResponse::AddEvent(const nlohmann::ordered_json& choice,
                              const nlohmann::ordered_json& further, std::string* events) const {
  *events += head_;
  if (!choice.is_null()) *events += Dump(choice);
  *events += ']';
  for (const auto& [name, value] : further.items()) {
    events->append(",\"").append(name).append("\":").append(Dump(value));
  }
  *events += "}\n\n";
}

void StreamResponse::SetUsage(const GenerationUsage& usage, nlohmann::ordered_json* further) const {
  if (context_.options.continuous_usage) {
    (*further)["usage"] = UsageJson(usage);
  } else if (context_.options.include_usage) {
    (*further)["usage"] = nullptr;
  }
}

std::string StreamResponse::ChatEvents(const ChoiceDelta& delta, const GenerationUsage& usage) {
  Choice& choice = choices_[static_cast<size_t>(delta.index)];
  std::string events;
  const auto add = [&](nlohmann::ordered_json message, nlohmann::ordered_json logprobs, bool last) {
    nlohmann::ordered_json json = {{"index", delta.index}, {"delta", std::move(message)}};
    json["logprobs"] = std::move(logprobs);
    json["finish_reason"] = nullptr;
    if (last) {
      const bool called = choice.tools != nullptr && choice.tools->called();
      json["finish_reason"] = FinishReasonName(*delta.finish, called);
      json["stop_reason"] = StopReasonJson(delta);
    }
    nlohmann::ordered_json further;
    if (!last && !prompt_told_ && context_.options.prompt_logprobs >= 0) {
      prompt_told_ = true;
      further["prompt_logprobs"] = PromptLogprobsJson(
          prompt_logprobs_[0], context_.options.prompt_logprobs, *context_.tokenizer);
    }
    SetUsage(usage, &further);
    AddEvent(json, further, &events);
  };
  if (!choice.started) {
    choice.started = true;
    if (const auto& tools = context_.options.tools) {
      choice.tools = std::make_unique<ToolCallMessage>(context_.options.tool_format, *tools);
    }
    add({{"role", "assistant"}, {"content", ""}}, nullptr, false);
  }
  nlohmann::ordered_json logprobs;
  if (context_.options.logprobs && !delta.tokens.empty()) {
    logprobs = ChatLogprobsJson(delta.tokens, context_.options.top_logprobs, *context_.tokenizer);
  }
  nlohmann::ordered_json message = nlohmann::ordered_json::object();
  if (choice.tools != nullptr) {
    for (auto& part : choice.tools->Deltas(delta.text, delta.finish.has_value())) {
      add(std::move(part), std::exchange(logprobs, nullptr), false);
    }
  } else if (!delta.text.empty()) {
    message["content"] = delta.text;
  }
  if (message.empty() && logprobs.is_null() && !delta.finish) return events;
  add(std::move(message), std::move(logprobs), delta.finish.has_value());
  return events;
}

std::string StreamResponse::CompletionEvents(const ChoiceDelta& delta,
                                             const GenerationUsage& usage) {
  Choice& choice = choices_[static_cast<size_t>(delta.index)];
  const OpenAiOptions& options = context_.options;
  const size_t prompt = static_cast<size_t>(delta.index / context_.n);
  const bool first = !choice.started;
  const bool echo = options.echo && first;
  choice.started = true;
  const std::string text = echo ? context_.prompt_texts[prompt] + delta.text : delta.text;
  nlohmann::ordered_json logprobs;
  if (options.logprobs && (echo || !delta.tokens.empty())) {
    if (echo) {
      choice.legacy.AddPrompt(context_.prompt_ids[prompt], prompt_logprobs_[prompt],
                              options.top_logprobs, context_.skip_special_tokens,
                              *context_.tokenizer);
    }
    choice.legacy.Add(delta.tokens, options.top_logprobs, context_.skip_special_tokens,
                      *context_.tokenizer);
    logprobs = choice.legacy.Take();
  }
  const bool tells_prompt = first && options.prompt_logprobs >= 0;
  if (text.empty() && logprobs.is_null() && !delta.finish && !tells_prompt) return {};
  nlohmann::ordered_json json = {{"index", delta.index}, {"text", text}};
  json["logprobs"] = std::move(logprobs);
  json["finish_reason"] = nullptr;
  if (delta.finish) {
    json["finish_reason"] = FinishReasonName(*delta.finish);
    json["stop_reason"] = StopReasonJson(delta);
  }
  if (tells_prompt) {
    json["prompt_logprobs"] =
        PromptLogprobsJson(prompt_logprobs_[prompt], options.prompt_logprobs, *context_.tokenizer);
  }
  nlohmann::ordered_json further;
  SetUsage(usage, &further);
  std::string events;
  AddEvent(json, further, &events);
  return events;
}

std::string StreamResponse::End(const PumpOutput& output) {
  if (!output.status.ok()) return "data: " + ErrorBody(output.status) + "\n\n";
  std::string events;
  if (context_.options.include_usage) {
    AddEvent(nullptr, {{"usage", UsageJson(output.usage)}}, &events);
  }
  return events + "data: [DONE]\n\n";
}

std::string StreamResponse::Events(const PumpOutput& output) {
  for (const PromptLogprobs& prompt : output.prompt_logprobs) {
    prompt_logprobs_[static_cast<size_t>(prompt.prompt)] = prompt.tokens;
  }
  std::string events;
  for (const ChoiceDelta& delta : output.deltas) {
    events += context_.options.chat ? ChatEvents(delta, output.usage)
                                    : CompletionEvents(delta, output.usage);
  }
  if (output.finished) events += End(output);
  return events;
}

}  // namespace palu
