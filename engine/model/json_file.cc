#include "engine/model/json_file.h"

#include <cmath>
#include <fstream>
#include <set>
#include <sstream>

#include "engine/status.h"

namespace palu {

Json ParseJson(std::string_view text, const std::string& file, int max_depth, bool unique_keys) {
  std::set<std::string> seen;
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > max_depth) {
      throw LoadError(file + ": JSON nested deeper than " + std::to_string(max_depth) + " levels");
    }
    if (unique_keys && depth == 1 && event == Json::parse_event_t::key &&
        !seen.insert(parsed.get<std::string>()).second) {
      throw LoadError(file + ": key \"" + parsed.get<std::string>() + "\" occurs twice");
    }
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const Json::exception& error) {
    std::string reason = error.what();
    for (char& c : reason) {
      if (c == '\n') c = ' ';
    }
    throw LoadError(file + ": invalid JSON: " + reason.substr(0, 200));
  }
}

std::string ReadFile(const std::string& path, size_t max_bytes) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) throw LoadError(path + ": cannot be opened for reading");
  const std::streamoff size = in.tellg();
  if (size < 0 || static_cast<uint64_t>(size) > max_bytes) {
    throw LoadError(path + ": found " + std::to_string(size) + " bytes, expected at most " +
                    std::to_string(max_bytes));
  }
  std::string text(static_cast<size_t>(size), '\0');
  in.seekg(0);
  in.read(text.data(), size);
  if (!in) throw LoadError(path + ": cannot be read");
  return text;
}

std::string Shorten(const Json& value) {
  if (value.is_object() && value.size() > 8) {
    return "an object of " + std::to_string(value.size()) + " keys";
  }
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

JsonObject::JsonObject(const Json& value, std::string file, std::string where)
    : value_(&value), file_(std::move(file)), where_(std::move(where)) {
  if (!value.is_object()) {
    throw LoadError(file_ + ": " + (where_.empty() ? "content" : "key \"" + where_ + "\"") +
                    ": found " + Shorten(value) + ", expected an object");
  }
}

std::string JsonObject::Path(const std::string& key) const {
  return where_.empty() ? key : where_ + "." + key;
}

void JsonObject::Fail(const std::string& key, const std::string& expected) const {
  const auto it = value_->find(key);
  throw LoadError(file_ + ": key \"" + Path(key) + "\": found " +
                  (it == value_->end() ? "nothing" : Shorten(*it)) + ", expected " + expected);
}

bool JsonObject::Has(const std::string& key) const { return Find(key) != nullptr; }

const Json* JsonObject::Find(const std::string& key) const {
  const auto it = value_->find(key);
  return it == value_->end() || it->is_null() ? nullptr : &*it;
}

const Json& JsonObject::Required(const std::string& key, const std::string& expected) const {
  const Json* found = Find(key);
  if (found == nullptr) Fail(key, expected);
  return *found;
}

int64_t JsonObject::Int(const std::string& key, int64_t min, int64_t max) const {
  const std::string expected =
      "an integer from " + std::to_string(min) + " to " + std::to_string(max);
  const Json& value = Required(key, expected);
  if (!value.is_number_integer()) Fail(key, expected);
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    Fail(key, expected);
  }
  const int64_t number = value.get<int64_t>();
  if (number < min || number > max) Fail(key, expected);
  return number;
}

int64_t JsonObject::Int(const std::string& key, int64_t min, int64_t max, int64_t absent) const {
  return Has(key) ? Int(key, min, max) : absent;
}

double JsonObject::Number(const std::string& key, double min, double max) const {
  std::ostringstream expected;
  expected << "a number from " << min << " to " << max;
  const Json& value = Required(key, expected.str());
  if (!value.is_number()) Fail(key, expected.str());
  const double number = value.get<double>();
  if (!(number >= min && number <= max)) Fail(key, expected.str());
  return number;
}

double JsonObject::Number(const std::string& key, double min, double max, double absent) const {
  return Has(key) ? Number(key, min, max) : absent;
}

bool JsonObject::Bool(const std::string& key, bool absent) const {
  const Json* value = Find(key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) Fail(key, "true or false");
  return value->get<bool>();
}

std::string JsonObject::String(const std::string& key) const {
  const Json& value = Required(key, "a string");
  if (!value.is_string()) Fail(key, "a string");
  return value.get<std::string>();
}

std::string JsonObject::String(const std::string& key, const std::string& absent) const {
  return Has(key) ? String(key) : absent;
}

std::vector<int64_t> JsonObject::Ints(const std::string& key, int64_t min, int64_t max) const {
  const std::string expected =
      "an array of integers from " + std::to_string(min) + " to " + std::to_string(max);
  const Json& array = Required(key, expected);
  if (!array.is_array()) Fail(key, expected);
  std::vector<int64_t> numbers;
  for (const Json& item : array) {
    if (!item.is_number_integer()) Fail(key, expected);
    if (item.is_number_unsigned() && item.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
      Fail(key, expected);
    }
    const int64_t number = item.get<int64_t>();
    if (number < min || number > max) Fail(key, expected);
    numbers.push_back(number);
  }
  return numbers;
}

std::optional<JsonObject> JsonObject::Object(const std::string& key) const {
  const Json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  return JsonObject(*value, file_, Path(key));
}

const Json& JsonObject::Array(const std::string& key) const {
  const Json& value = Required(key, "an array");
  if (!value.is_array()) Fail(key, "an array");
  return value;
}

std::string OneOf(std::initializer_list<std::string_view> names) {
  std::string text;
  size_t i = 0;
  for (std::string_view name : names) {
    if (i > 0) text += i + 1 == names.size() ? " or " : ", ";
    text += name;
    ++i;
  }
  return text;
}

}  // namespace palu
