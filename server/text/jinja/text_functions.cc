#include "server/text/jinja/text_functions.h"

#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>

#include "server/text/jinja/value_text.h"
#include "server/text/utf8.h"

namespace palu::jinja {
namespace {

icu::UnicodeString ToIcu(std::string_view text) {
  return icu::UnicodeString::fromUTF8(
      icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
}

std::string FromIcu(const icu::UnicodeString& text) {
  std::string out;
  text.toUTF8String(out);
  return out;
}

std::string TitleOf(char32_t c) {
  std::string out;
  AppendUtf8(static_cast<char32_t>(u_totitle(static_cast<UChar32>(c))), &out);
  return out;
}

size_t CharacterBefore(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

bool IsCased(char32_t c) { return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_CASED) != 0; }

// All cased characters have the property, and there is one.
bool CaseOfAll(std::string_view text, UProperty property) {
  bool found = false;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = NextCodePoint(text, &pos);
    if (!IsCased(c)) continue;
    if (u_hasBinaryProperty(static_cast<UChar32>(c), property) == 0) return false;
    found = true;
  }
  return found;
}

bool IsLineEnd(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

}  // namespace

bool IsPythonSpace(char32_t c) { return IsWhitespace(c) || (c >= 0x1C && c <= 0x1F); }

std::string Upper(std::string_view text) {
  return FromIcu(ToIcu(text).toUpper(icu::Locale::getRoot()));
}

std::string Lower(std::string_view text) {
  return FromIcu(ToIcu(text).toLower(icu::Locale::getRoot()));
}

std::string Capitalize(std::string_view text) {
  if (text.empty()) return {};
  size_t pos = 0;
  const char32_t first = NextCodePoint(text, &pos);
  return TitleOf(first) + Lower(text.substr(pos));
}

std::string TitleCase(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = NextCodePoint(text, &pos);
    const std::string_view character = text.substr(begin, pos - begin);
    out += !IsCased(c) ? std::string(character) : in_word ? Lower(character) : TitleOf(c);
    in_word = IsCased(c);
  }
  return out;
}

std::string SwapCase(std::string_view text) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = NextCodePoint(text, &pos);
    const std::string_view character = text.substr(begin, pos - begin);
    out += u_isUUppercase(static_cast<UChar32>(c)) != 0 ? Lower(character) : Upper(character);
  }
  return out;
}

std::string Strip(std::string_view text, StripSide side, std::string_view characters) {
  const auto strippable = [characters](std::string_view character) {
    size_t pos = 0;
    return characters.empty() ? IsPythonSpace(NextCodePoint(character, &pos))
                              : characters.find(character) != std::string_view::npos;
  };
  while (side != StripSide::kRight && !text.empty()) {
    size_t pos = 0;
    NextCodePoint(text, &pos);
    if (!strippable(text.substr(0, pos))) break;
    text.remove_prefix(pos);
  }
  while (side != StripSide::kLeft && !text.empty()) {
    const size_t begin = CharacterBefore(text, text.size());
    if (!strippable(text.substr(begin))) break;
    text = text.substr(0, begin);
  }
  return std::string(text);
}

std::vector<std::string> SplitSpace(std::string_view text, int64_t limit) {
  std::vector<std::string> parts;
  for (;;) {
    const std::string rest = Strip(text, StripSide::kLeft, {});
    text = text.substr(text.size() - rest.size());
    if (text.empty()) return parts;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) >= limit) {
      parts.emplace_back(text);
      return parts;
    }
    size_t end = 0;
    for (size_t pos = 0; pos < text.size(); end = pos) {
      if (IsPythonSpace(NextCodePoint(text, &pos))) break;
    }
    parts.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

std::vector<std::string> SplitSpaceRight(std::string_view text, int64_t limit) {
  std::vector<std::string> parts;
  for (;;) {
    text = text.substr(0, Strip(text, StripSide::kRight, {}).size());
    if (text.empty()) break;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) >= limit) {
      parts.emplace_back(text);
      break;
    }
    size_t begin = text.size();
    while (begin > 0) {
      size_t pos = CharacterBefore(text, begin);
      const size_t at = pos;
      if (IsPythonSpace(NextCodePoint(text, &pos))) break;
      begin = at;
    }
    parts.emplace_back(text.substr(begin));
    text = text.substr(0, begin);
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string> Split(std::string_view text, std::string_view separator, int64_t limit) {
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = text.find(separator);
    if (at == std::string_view::npos) break;
    parts.emplace_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  parts.emplace_back(text);
  return parts;
}

std::vector<std::string> SplitRight(std::string_view text, std::string_view separator,
                                    int64_t limit) {
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = text.rfind(separator);
    if (at == std::string_view::npos) break;
    parts.emplace_back(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  parts.emplace_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t pos = 0; pos < text.size();) {
    const size_t at = pos;
    const char32_t c = NextCodePoint(text, &pos);
    if (!IsLineEnd(c)) continue;
    if (c == '\r' && pos < text.size() && text[pos] == '\n') ++pos;
    lines.emplace_back(text.substr(begin, (keep_ends ? pos : at) - begin));
    begin = pos;
  }
  if (begin < text.size()) lines.emplace_back(text.substr(begin));
  return lines;
}

std::string ReplaceText(std::string_view text, std::string_view old_text, std::string_view new_text,
                        int64_t limit) {
  std::string out;
  int64_t count = 0;
  if (old_text.empty()) {
    for (size_t pos = 0; pos <= text.size();) {
      if (limit < 0 || count++ < limit) out += new_text;
      CheckTextSize(out.size());
      if (pos == text.size()) break;
      const size_t begin = pos;
      NextCodePoint(text, &pos);
      out += text.substr(begin, pos - begin);
    }
    return out;
  }
  for (; limit < 0 || count < limit; ++count) {
    const size_t at = text.find(old_text);
    if (at == std::string_view::npos) break;
    out.append(text.substr(0, at)).append(new_text);
    CheckTextSize(out.size());
    text.remove_prefix(at + old_text.size());
  }
  out += text;
  return out;
}

bool All(std::string_view text, bool (*test)(char32_t)) {
  for (size_t pos = 0; pos < text.size();) {
    if (!test(NextCodePoint(text, &pos))) return false;
  }
  return !text.empty();
}

bool IsUpperText(std::string_view text) { return CaseOfAll(text, UCHAR_UPPERCASE); }
bool IsLowerText(std::string_view text) { return CaseOfAll(text, UCHAR_LOWERCASE); }

}  // namespace palu::jinja
