#include "server/text/jinja/literal.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "server/text/utf8.h"

namespace palu::jinja {
namespace {

bool IsDigitOf(char c, int base) {
  if (base == 16) return std::isxdigit(static_cast<unsigned char>(c)) != 0;
  return c >= '0' && c < '0' + base;
}

// Digits with single underscores between them; the end of them.
size_t DigitsEnd(std::string_view text, size_t pos, int base) {
  while (pos < text.size()) {
    if (IsDigitOf(text[pos], base)) {
      ++pos;
    } else if (text[pos] == '_' && pos + 1 < text.size() && IsDigitOf(text[pos + 1], base)) {
      pos += 2;
    } else {
      break;
    }
  }
  return pos;
}

std::string WithoutUnderscores(std::string_view text) {
  std::string out(text);
  std::erase(out, '_');
  return out;
}

// The exponent behind a number, or pos.
size_t ExponentEnd(std::string_view text, size_t pos) {
  if (pos >= text.size() || (text[pos] != 'e' && text[pos] != 'E')) return pos;
  size_t digits = pos + 1;
  if (digits < text.size() && (text[digits] == '+' || text[digits] == '-')) ++digits;
  const size_t end = DigitsEnd(text, digits, 10);
  return end > digits ? end : pos;
}

std::optional<char32_t> HexEscape(std::string_view text, size_t* pos, size_t digits) {
  if (*pos + digits > text.size()) return std::nullopt;
  uint32_t value = 0;
  const char* begin = text.data() + *pos;
  const auto [end, error] = std::from_chars(begin, begin + digits, value, 16);
  if (error != std::errc() || end != begin + digits || value > 0x10FFFF) return std::nullopt;
  *pos += digits;
  // A lone surrogate has no UTF-8.
  return value >= 0xD800 && value < 0xE000 ? 0xFFFD : static_cast<char32_t>(value);
}

char32_t OctalEscape(std::string_view text, size_t* pos) {
  char32_t value = 0;
  for (int i = 0; i < 3 && *pos < text.size() && IsDigitOf(text[*pos], 8); ++i) {
    value = value * 8 + static_cast<char32_t>(text[(*pos)++] - '0');
  }
  return value;
}

}  // namespace

NumberLiteral ReadNumber(std::string_view text) {
  NumberLiteral out;
  int base = 10;
  size_t begin = 0;
  if (text.size() > 2 && text[0] == '0') {
    const char mark = static_cast<char>(text[1] | 0x20);
    base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
    if (base != 10) begin = 2;
  }
  size_t end = DigitsEnd(text, begin, base);
  if (end == begin) return out;
  if (base == 10) {
    size_t real_end = end;
    if (end + 1 < text.size() && text[end] == '.' && IsDigitOf(text[end + 1], 10)) {
      real_end = DigitsEnd(text, end + 1, 10);
    }
    real_end = ExponentEnd(text, real_end);
    out.is_real = real_end > end;
    end = real_end;
  }
  const std::string digits = WithoutUnderscores(text.substr(begin, end - begin));
  const char* last = digits.data() + digits.size();
  const std::errc error = out.is_real ? std::from_chars(digits.data(), last, out.real).ec
                                      : std::from_chars(digits.data(), last, out.integer, base).ec;
  if (error == std::errc()) out.length = end;
  return out;
}

std::optional<std::string> Unescape(std::string_view text) {
  static constexpr std::string_view kNames = "abfnrtv\\'\"";
  static constexpr std::string_view kCharacters = "\a\b\f\n\r\t\v\\'\"";
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const char c = text[pos++];
    if (c != '\\' || pos >= text.size()) {
      out += c;
      continue;
    }
    const char name = text[pos++];
    const size_t known = kNames.find(name);
    if (known != std::string_view::npos) {
      out += kCharacters[known];
    } else if (name == 'x' || name == 'u' || name == 'U') {
      const auto code_point = HexEscape(text, &pos, name == 'x' ? 2 : name == 'u' ? 4 : 8);
      if (!code_point) return std::nullopt;
      AppendUtf8(*code_point, &out);
    } else if (name >= '0' && name <= '7') {
      --pos;
      AppendUtf8(OctalEscape(text, &pos), &out);
    } else if (name == 'N') {
      return std::nullopt;
    } else if (name != '\n') {
      out += '\\';
      out += name;
    }
  }
  return out;
}

}  // namespace palu::jinja
