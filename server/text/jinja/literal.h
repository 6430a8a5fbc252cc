// Numbers and strings as templates write them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace palu::jinja {

struct NumberLiteral {
  size_t length = 0;  // of the literal; 0: none, or out of range
  bool is_real = false;
  int64_t integer = 0;
  double real = 0;
};
// The literal at the beginning of text: 12, 1_000, 0xff, 0o7, 0b1, 1.5, 2e3.
NumberLiteral ReadNumber(std::string_view text);

// Python's escapes; nothing for a broken one.
std::optional<std::string> Unescape(std::string_view text);

}  // namespace palu::jinja
