// Reading JSON files of a checkpoint with errors that name the file, the key, what was found and
// what was expected.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace palu {

using Json = nlohmann::json;

// Parses text. Throws LoadError (naming file) on bad syntax, on nesting deeper than max_depth, and,
// when unique_keys, on a key that occurs twice in the outermost object.
Json ParseJson(std::string_view text, const std::string& file, int max_depth = 64,
               bool unique_keys = false);

// Whole file as bytes. Throws LoadError when it cannot be read or is larger than max_bytes.
std::string ReadFile(const std::string& path, size_t max_bytes = size_t{64} << 20);

// Value as it stands in the file, shortened for a message.
std::string Shorten(const Json& value);

// A JSON object of a file, read key by key. A null counts as absent. Holds references: the Json
// must outlive it. Every method throws LoadError on a value of the wrong type or out of range.
class JsonObject {
 public:
  // where: path of keys inside the file, empty for the whole. Throws when value is no object.
  JsonObject(const Json& value, std::string file, std::string where = {});

  bool Has(const std::string& key) const;
  const Json* Find(const std::string& key) const;  // nullptr when absent or null

  int64_t Int(const std::string& key, int64_t min, int64_t max) const;  // required
  int64_t Int(const std::string& key, int64_t min, int64_t max, int64_t absent) const;
  double Number(const std::string& key, double min, double max) const;  // required
  double Number(const std::string& key, double min, double max, double absent) const;
  bool Bool(const std::string& key, bool absent) const;
  std::string String(const std::string& key) const;  // required
  std::string String(const std::string& key, const std::string& absent) const;
  std::vector<int64_t> Ints(const std::string& key, int64_t min,
                            int64_t max) const;  // may be empty
  std::optional<JsonObject> Object(const std::string& key) const;
  const Json& Array(const std::string& key) const;  // required

  [[noreturn]] void Fail(const std::string& key, const std::string& expected) const;
  const std::string& file() const { return file_; }
  std::string Path(const std::string& key) const;

 private:
  const Json& Required(const std::string& key, const std::string& expected) const;

  const Json* value_;
  std::string file_, where_;
};

// "a, b or c" for messages.
std::string OneOf(std::initializer_list<std::string_view> names);

}  // namespace palu
