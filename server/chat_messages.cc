#include "server/chat_messages.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "server/openai_structured.h"

namespace palu {
namespace {

constexpr size_t kMaxMessageKeys = 64;
constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant",
                                                    "tool"};

// A string, or text parts, which are joined by newlines as in vLLM.
std::string ReadContent(const nlohmann::json& content, const std::string& path,
                        JsonFields* fields) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) {
    fields->Fail(
        path, std::string("must be a string or an array of parts, not ") + JsonTypeName(content));
    return {};
  }
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const nlohmann::json& part = content[i];
    const std::string part_path = path + "[" + std::to_string(i) + "]";
    const auto type = part.is_object() ? part.find("type") : part.end();
    if (!part.is_object() || type == part.end() || *type != "text") {
      fields->Fail(part_path + ".type", "must be 'text': this server takes text only");
      return {};
    }
    const auto it = part.find("text");
    if (it == part.end() || !it->is_string()) {
      fields->Fail(part_path + ".text", "must be a string");
      return {};
    }
    if (i > 0) text += '\n';
    text += it->get_ref<const std::string&>();
  }
  return text;
}

// Templates iterate over the arguments, clients send them as JSON text.
void ParseToolCallArguments(const std::string& path, nlohmann::ordered_json* message,
                            JsonFields* fields) {
  const auto calls = message->find("tool_calls");
  if (calls == message->end()) return;
  if (!calls->is_array()) return fields->Fail(path + ".tool_calls", "must be an array");
  for (size_t i = 0; i < calls->size(); ++i) {
    nlohmann::ordered_json& call = (*calls)[i];
    const std::string call_path = path + ".tool_calls[" + std::to_string(i) + "]";
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) {
      return fields->Fail(call_path + ".function", "is required and must be an object");
    }
    nlohmann::ordered_json& arguments = call["function"]["arguments"];
    if (!arguments.is_string()) continue;
    const Result<nlohmann::ordered_json> parsed =
        ParseOrdered(arguments.get_ref<const std::string&>());
    if (!parsed) return fields->Fail(call_path + ".function.arguments", "is not valid JSON");
    nlohmann::ordered_json value = *parsed;
    arguments = std::move(value);
  }
}

bool ReadMessage(const nlohmann::json& item, const std::string& path, JsonFields* fields,
                 nlohmann::ordered_json* message) {
  if (!item.is_object()) {
    fields->Fail(path, std::string("must be an object, not ") + JsonTypeName(item));
    return false;
  }
  // Insertion into an ordered object is linear in its size.
  if (item.size() > kMaxMessageKeys) {
    fields->Fail(path, "has more than " + std::to_string(kMaxMessageKeys) + " keys");
    return false;
  }
  const auto role = item.find("role");
  if (role == item.end() || !role->is_string()) {
    fields->Fail(path + ".role", "is required and must be a string");
    return false;
  }
  const std::string name = role->get<std::string>();
  if (std::find(kRoles.begin(), kRoles.end(), name) == kRoles.end()) {
    fields->Fail(path + ".role", "must be system, developer, user, assistant or tool");
    return false;
  }
  *message = {{"role", name}};
  const auto content = item.find("content");
  if (content != item.end() && !content->is_null()) {
    (*message)["content"] = ReadContent(*content, path + ".content", fields);
  } else if (name == "assistant") {
    (*message)["content"] = "";
  } else {
    fields->Fail(path + ".content", "is required");
    return false;
  }
  for (const auto& [key, value] : item.items()) {
    if (key != "role" && key != "content" && !value.is_null()) {
      (*message)[key] = nlohmann::ordered_json(value);
    }
  }
  ParseToolCallArguments(path, message, fields);
  return fields->status().ok();
}

}  // namespace

void ReadMessages(JsonFields* fields, nlohmann::ordered_json* messages) {
  const nlohmann::json* value = fields->Get("messages");
  if (value == nullptr) return fields->Fail("messages", "is required");
  if (!value->is_array() || value->empty()) {
    return fields->Fail("messages", "must be an array of messages, and not empty");
  }
  *messages = nlohmann::ordered_json::array();
  for (size_t i = 0; i < value->size(); ++i) {
    nlohmann::ordered_json message;
    if (!ReadMessage((*value)[i], "messages[" + std::to_string(i) + "]", fields, &message)) return;
    messages->push_back(std::move(message));
  }
}

}  // namespace palu
