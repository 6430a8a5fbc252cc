#include "server/json_fields.h"

#include <cmath>
#include <cstdio>
#include <utility>

namespace palu {
namespace {

// Depth of brackets outside strings; malformed text is left to the parser.
bool TooDeep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxJsonDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.10g", value);
  return text;
}

// The parser's message quotes the input; only the position is worth passing on.
std::string WhereItFailed(const nlohmann::json::exception& error) {
  const std::string_view what = error.what();
  const size_t at = what.find("at line ");
  if (at == std::string_view::npos) return "";
  const size_t end = what.find(':', at);
  return " (" + std::string(what.substr(at, end == std::string_view::npos ? end : end - at)) + ")";
}

}  // namespace

Result<nlohmann::json> ParseJson(std::string_view text) {
  if (TooDeep(text)) {
    return tl::unexpected(InvalidArgument("The JSON body is nested deeper than " +
                                          std::to_string(kMaxJsonDepth) + " levels"));
  }
  try {
    return nlohmann::json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::exception& error) {
    return tl::unexpected(
        InvalidArgument("The request body is not valid JSON" + WhereItFailed(error)));
  }
}

std::optional<int64_t> AsInteger(const nlohmann::json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  if (std::abs(number) > 9e15 || number != std::floor(number)) return std::nullopt;
  return static_cast<int64_t>(number);
}

const char* JsonTypeName(const nlohmann::json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "a boolean";
  if (value.is_number_float()) return "a number";
  if (value.is_number()) return "an integer";
  if (value.is_string()) return "a string";
  return value.is_array() ? "an array" : "an object";
}

JsonFields::JsonFields(const nlohmann::json& object, std::string path)
    : object_(object), path_(std::move(path)) {
  if (!object_.is_object()) {
    status_ = InvalidArgument((path_.empty() ? "The request body" : "'" + path_ + "'") +
                                  " must be a JSON object, not " + JsonTypeName(object_),
                              path_);
  }
}

const nlohmann::json* JsonFields::Get(const char* name) {
  known_.insert(name);
  if (!status_.ok() || !object_.is_object()) return nullptr;
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

bool JsonFields::Has(const char* name) { return Get(name) != nullptr; }

std::string JsonFields::ParamPath(const std::string& name) const {
  return path_.empty() ? name : path_ + "." + name;
}

void JsonFields::Fail(const std::string& name, const std::string& message) {
  if (!status_.ok()) return;
  const std::string path = ParamPath(name);
  status_ = InvalidArgument("'" + path + "' " + message, path);
}

void JsonFields::Bool(const char* name, bool* out) {
  const nlohmann::json* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_boolean()) {
    return Fail(name, std::string("must be a boolean, not ") + JsonTypeName(*value));
  }
  *out = value->get<bool>();
}

void JsonFields::String(const char* name, std::string* out) {
  const nlohmann::json* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_string()) {
    return Fail(name, std::string("must be a string, not ") + JsonTypeName(*value));
  }
  *out = value->get<std::string>();
}

void JsonFields::Float(const char* name, double min, double max, float* out) {
  const nlohmann::json* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_number()) {
    return Fail(name, std::string("must be a number, not ") + JsonTypeName(*value));
  }
  const double number = value->get<double>();
  if (!(number >= min && number <= max)) {
    return Fail(
        name, "must be between " + Number(min) + " and " + Number(max) + ", not " + Number(number));
  }
  *out = static_cast<float>(number);
}

void JsonFields::Int64(const char* name, int64_t min, int64_t max, int64_t* out) {
  const nlohmann::json* value = Get(name);
  if (value == nullptr) return;
  const std::optional<int64_t> number = AsInteger(*value);
  if (!value->is_number() || (!number && value->is_number_float())) {
    return Fail(name, std::string("must be an integer, not ") + JsonTypeName(*value));
  }
  if (!number || *number < min || *number > max) {
    return Fail(name, "must be between " + std::to_string(min) + " and " + std::to_string(max) +
                          ", not " + value->dump());
  }
  *out = *number;
}

void JsonFields::Int(const char* name, int64_t min, int64_t max, int* out) {
  int64_t value = *out;
  Int64(name, min, max, &value);
  *out = static_cast<int>(value);
}

void JsonFields::OptionalInt(const char* name, int64_t min, int64_t max, std::optional<int>* out) {
  if (!Has(name)) return;
  int64_t value = 0;
  Int64(name, min, max, &value);
  *out = static_cast<int>(value);
}

void JsonFields::TokenIds(const char* name, std::vector<int32_t>* out) {
  const nlohmann::json* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_array()) {
    return Fail(name, std::string("must be an array of token ids, not ") + JsonTypeName(*value));
  }
  out->clear();
  out->reserve(value->size());
  for (size_t i = 0; i < value->size(); ++i) {
    const std::optional<int64_t> id = AsInteger((*value)[i]);
    if (!id || *id < 0 || *id > std::numeric_limits<int32_t>::max()) {
      return Fail(std::string(name) + "[" + std::to_string(i) + "]", "must be a token id");
    }
    out->push_back(static_cast<int32_t>(*id));
  }
}

void JsonFields::Strings(const char* name, std::vector<std::string>* out) {
  const nlohmann::json* value = Get(name);
  if (value == nullptr) return;
  out->clear();
  if (value->is_string()) {
    // An empty stop string is what clients send for "none".
    if (!value->get_ref<const std::string&>().empty()) out->push_back(value->get<std::string>());
    return;
  }
  if (!value->is_array()) {
    return Fail(
        name, std::string("must be a string or an array of strings, not ") + JsonTypeName(*value));
  }
  for (size_t i = 0; i < value->size(); ++i) {
    const nlohmann::json& item = (*value)[i];
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) {
      return Fail(std::string(name) + "[" + std::to_string(i) + "]", "must be a non-empty string");
    }
    out->push_back(item.get<std::string>());
  }
}

std::vector<std::string> JsonFields::Unknown() const {
  std::vector<std::string> names;
  if (!object_.is_object()) return names;
  for (const auto& [name, value] : object_.items()) {
    if (known_.find(name) == known_.end()) names.push_back(name);
  }
  return names;
}

}  // namespace palu
