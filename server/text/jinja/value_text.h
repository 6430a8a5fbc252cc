// Values as text: what {{ }} prints, Python's repr, and JSON.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "server/text/jinja/value.h"

namespace palu::jinja {

inline constexpr size_t kMaxTextBytes = 16u << 20;  // of any one string

// Throws an OverflowError for a text that is longer.
void CheckTextSize(size_t bytes);

std::string Str(const Value& value);   // Python's str()
std::string Repr(const Value& value);  // Python's repr()
std::string FloatRepr(double number);
std::string EscapeHtml(std::string_view text);

struct JsonStyle {
  bool ensure_ascii = false;
  std::optional<std::string> indent;  // of one level; none: one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
// Python's json.dumps. Throws TypeError for what JSON does not have.
std::string ToJson(const Value& value, const JsonStyle& style);

// Text by code points, as Python counts.
size_t CodePointCount(std::string_view text);
// Byte offset of the index-th code point (or the end).
size_t CodePointOffset(std::string_view text, size_t index);

}  // namespace palu::jinja
