#include "server/text/json_reader.h"

#include <fstream>
#include <sstream>

#include "server/text/utf8.h"

namespace palu {
namespace {

std::string Shown(const nlohmann::json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array of " + std::to_string(value.size());
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

}  // namespace

void JsonReader::Fail(const std::string& found, const std::string& expected) const {
  const std::string where = path_.empty() ? std::string("document") : path_;
  throw LoadError(*file_ + ": " + where + ": found " + found + ", expected " + expected);
}

void JsonReader::FailValue(const std::string& expected) const { Fail(Shown(*value_), expected); }

bool JsonReader::Has(const char* key) const {
  if (!value_->is_object()) return false;
  const auto found = value_->find(key);
  return found != value_->end() && !found->is_null();
}

JsonReader JsonReader::At(const char* key) const {
  Object();
  const auto found = value_->find(key);
  if (found == value_->end()) Fail("no key \"" + std::string(key) + "\"", "one");
  return JsonReader(*found, *file_, path_.empty() ? key : path_ + "." + key);
}

JsonReader JsonReader::At(size_t index) const {
  return JsonReader((*value_)[index], *file_, path_ + "[" + std::to_string(index) + "]");
}

JsonReader JsonReader::Array() const {
  if (!value_->is_array()) FailValue("an array");
  return *this;
}

JsonReader JsonReader::Object() const {
  if (!value_->is_object()) FailValue("an object");
  return *this;
}

std::string JsonReader::String() const {
  if (!value_->is_string()) FailValue("a string");
  return value_->get<std::string>();
}

int64_t JsonReader::Int(int64_t low, int64_t high) const {
  const std::string range = "an integer " + std::to_string(low) + ".." + std::to_string(high);
  if (!value_->is_number_integer()) FailValue(range);
  if (value_->is_number_unsigned() && value_->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    FailValue(range);
  }
  const int64_t number = value_->get<int64_t>();
  if (number < low || number > high) FailValue(range);
  return number;
}

bool JsonReader::Bool() const {
  if (!value_->is_boolean()) FailValue("true or false");
  return value_->get<bool>();
}

std::string JsonReader::StringOr(const char* key, const char* fallback) const {
  return Has(key) ? At(key).String() : fallback;
}

bool JsonReader::BoolOr(const char* key, bool fallback) const {
  return Has(key) ? At(key).Bool() : fallback;
}

int64_t JsonReader::IntOr(const char* key, int64_t low, int64_t high, int64_t fallback) const {
  return Has(key) ? At(key).Int(low, high) : fallback;
}

void JsonReader::CheckDepth(int depth) const {
  if (depth > kMaxJsonDepth)
    Fail("more nesting", std::to_string(kMaxJsonDepth) + " levels at most");
}

std::string ReadTextFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw LoadError(path + ": found no readable file, expected one");
  std::ostringstream text;
  text << in.rdbuf();
  if (in.bad()) throw LoadError(path + ": found a read error, expected a readable file");
  return std::move(text).str();
}

nlohmann::json ReadJsonFile(const std::string& path) {
  const std::string text = ReadTextFile(path);
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    throw LoadError(path + ": found broken JSON (" + ReplaceInvalidUtf8(error.what()) +
                    "), expected a JSON document");
  }
}

}  // namespace palu
