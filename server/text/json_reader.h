// Typed access to a tokenizer's JSON, with errors that name the file and the key.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engine/status.h"

namespace palu {

inline constexpr int kMaxJsonDepth = 32;  // of Sequences inside Sequences

// One value of a JSON file and where it stands. Cheap to copy; refers to the document. All members
// throw LoadError when the file does not hold what is asked for.
class JsonReader {
 public:
  // file: in messages only.
  JsonReader(const nlohmann::json& value, const std::string& file, std::string path = {})
      : value_(&value), file_(&file), path_(std::move(path)) {}

  const nlohmann::json& value() const { return *value_; }
  bool is_null() const { return value_->is_null(); }
  bool Has(const char* key) const;  // present and not null
  JsonReader At(const char* key) const;
  JsonReader At(size_t index) const;
  JsonReader Array() const;   // itself, checked
  JsonReader Object() const;  // itself, checked
  size_t size() const { return value_->size(); }

  std::string String() const;
  int64_t Int(int64_t low, int64_t high) const;
  bool Bool() const;
  std::string String(const char* key) const { return At(key).String(); }
  std::string StringOr(const char* key, const char* fallback) const;
  bool BoolOr(const char* key, bool fallback) const;
  int64_t IntOr(const char* key, int64_t low, int64_t high, int64_t fallback) const;

  // "FILE: PATH: found FOUND, expected EXPECTED".
  [[noreturn]] void Fail(const std::string& found, const std::string& expected) const;
  // Found: this value, shortened.
  [[noreturn]] void FailValue(const std::string& expected) const;
  const std::string& file() const { return *file_; }
  // Guards recursion over nested Sequences.
  void CheckDepth(int depth) const;

 private:
  const nlohmann::json* value_;
  const std::string* file_;
  std::string path_;
};

// The file's text. Throws LoadError.
std::string ReadTextFile(const std::string& path);
// Parsed. Throws LoadError with the place of a syntax error.
nlohmann::json ReadJsonFile(const std::string& path);

}  // namespace palu
