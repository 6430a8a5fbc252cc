// Bounded JSON parsing, and typed, range-checked access to the fields of an object.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/status.h"

namespace palu {

// Nesting beyond this is refused before anything is parsed.
inline constexpr int kMaxJsonDepth = 64;

// kInvalidArgument on bad JSON: bad UTF-8, NaN or Infinity, numbers out of range, nesting too deep,
// anything after the value. Of duplicate keys the last counts.
Result<nlohmann::json> ParseJson(std::string_view text);

// Reads one JSON object. Every getter leaves the target alone when the field is absent or null. The
// first wrong field is kept in status() and later getters do nothing, so that a caller reads all
// fields in a row and checks once. Not thread-safe; the object must outlive it.
class JsonFields {
 public:
  // path: of the object itself within the request, "" for the request.
  JsonFields(const nlohmann::json& object, std::string path);

  // Present and not null. Marks the field as known.
  bool Has(const char* name);
  const nlohmann::json* Get(const char* name);

  void Bool(const char* name, bool* out);
  void String(const char* name, std::string* out);
  void Float(const char* name, double min, double max, float* out);
  void Int(const char* name, int64_t min, int64_t max, int* out);
  void Int64(const char* name, int64_t min, int64_t max, int64_t* out);
  void OptionalInt(const char* name, int64_t min, int64_t max, std::optional<int>* out);
  void TokenIds(const char* name, std::vector<int32_t>* out);
  // A string or a list of strings; empty strings are refused.
  void Strings(const char* name, std::vector<std::string>* out);

  // The field's value fits none of what is expected.
  void Fail(const std::string& name, const std::string& message);
  // Name of a field as error.param shows it.
  std::string ParamPath(const std::string& name) const;

  const Status& status() const { return status_; }
  // Fields that nobody asked for.
  std::vector<std::string> Unknown() const;

 private:
  const nlohmann::json& object_;
  std::string path_;
  std::set<std::string, std::less<>> known_;
  Status status_;
};

// An integral JSON number (2 or 2.0) within int64; nothing otherwise.
std::optional<int64_t> AsInteger(const nlohmann::json& value);

// Short name of a value's type, for messages.
const char* JsonTypeName(const nlohmann::json& value);

}  // namespace palu
