#include "server/openai_tool_calls.h"

#include <random>
#include <utility>

namespace palu {
namespace {

using structured::ToolEvent;

std::vector<std::string> NamesOf(const structured::ToolRequest& request) {
  std::vector<std::string> names;
  for (const structured::Tool& tool : request.tools) names.push_back(tool.name);
  return names;
}

}  // namespace

ToolCallMessage::ToolCallMessage(structured::ToolFormat format,
                                 const structured::ToolRequest& tools)
    : format_(format), reader_(format, tools.forced, NamesOf(tools)) {}

std::string ToolCallMessage::NewId() const {
  static constexpr char kLetters[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
  thread_local std::mt19937_64 random{std::random_device{}()};
  // Mistral's templates take nothing but nine letters and digits.
  const bool mistral = format_ == structured::ToolFormat::kMistral;
  std::string id = mistral ? "" : "call_";
  for (int i = 0; i < (mistral ? 9 : 24); ++i) id += kLetters[random() % (sizeof(kLetters) - 1)];
  return id;
}

std::vector<nlohmann::ordered_json> ToolCallMessage::Deltas(const std::string& text, bool last) {
  std::vector<ToolEvent> events;
  reader_.Push(text, &events);
  if (last) reader_.Finish(&events);
  std::vector<nlohmann::ordered_json> deltas;
  for (ToolEvent& event : events) {
    if (event.kind == ToolEvent::Kind::kContent) {
      deltas.push_back({{"content", std::move(event.text)}});
      continue;
    }
    nlohmann::ordered_json call;
    if (event.kind == ToolEvent::Kind::kCall) {
      call = {{"index", ++index_},
              {"id", NewId()},
              {"type", "function"},
              {"function", {{"name", std::move(event.text)}, {"arguments", ""}}}};
    } else {
      call = {{"index", index_}, {"function", {{"arguments", std::move(event.text)}}}};
    }
    deltas.push_back({{"tool_calls", nlohmann::ordered_json::array({std::move(call)})}});
  }
  return deltas;
}

nlohmann::ordered_json ToolCallMessage::Whole(const std::string& text) {
  std::string content;
  nlohmann::ordered_json calls = nlohmann::ordered_json::array();
  for (const nlohmann::ordered_json& delta : Deltas(text, true)) {
    if (delta.contains("content")) {
      content += delta["content"].get_ref<const std::string&>();
      continue;
    }
    const nlohmann::ordered_json& call = delta["tool_calls"][0];
    if (call.contains("id")) {
      calls.push_back(call);
      calls.back().erase("index");
    } else {
      calls.back()["function"]["arguments"].get_ref<std::string&>() +=
          call["function"]["arguments"].get_ref<const std::string&>();
    }
  }
  nlohmann::ordered_json message = {
      {"role", "assistant"}, {"content", content}, {"refusal", nullptr}};
  if (!calls.empty()) {
    if (content.empty()) message["content"] = nullptr;
    message["tool_calls"] = std::move(calls);
  }
  return message;
}

}  // namespace palu
