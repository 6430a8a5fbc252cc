#include "server/openai_prompts.h"

#include <limits>
#include <optional>
#include <string>
#include <utility>

namespace palu {
namespace {

bool IsTokenId(const nlohmann::json& value) {
  const std::optional<int64_t> id = AsInteger(value);
  return id && *id >= 0 && *id <= std::numeric_limits<int32_t>::max();
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

}  // namespace

void ReadPrompts(JsonFields* fields, const char* name, std::vector<Prompt>* prompts) {
  const nlohmann::json* value = fields->Get(name);
  if (value == nullptr) return fields->Fail(name, "is required");
  if (value->is_string()) {
    prompts->emplace_back(value->get<std::string>());
    return;
  }
  if (!value->is_array() || value->empty()) {
    return fields->Fail(name,
                        "must be a string, an array of strings, an array of token ids or an array "
                        "of such arrays, and not empty");
  }
  if (value->front().is_number()) {
    if (auto prompt = TokenPrompt(*value, name, fields)) prompts->push_back(std::move(*prompt));
    return;
  }
  const bool strings = value->front().is_string();
  for (size_t i = 0; i < value->size(); ++i) {
    const nlohmann::json& item = (*value)[i];
    const std::string path = std::string(name) + "[" + std::to_string(i) + "]";
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

}  // namespace palu
