#include "server/text/utf8.h"

#include <algorithm>

namespace palu {
namespace {

// Bounds of the second byte depend on the first (Unicode 3.9, table 3-7).
struct Lead {
  int length;
  uint8_t low;
  uint8_t high;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// True when text[begin..] ends inside a code point that is well-formed so far.
bool IsOpenPrefix(std::string_view text, size_t begin) {
  const Lead lead = LeadOf(static_cast<uint8_t>(text[begin]));
  const size_t available = text.size() - begin;
  if (lead.length < 2 || available >= static_cast<size_t>(lead.length)) return false;
  for (size_t i = 1; i < available; ++i) {
    const uint8_t byte = static_cast<uint8_t>(text[begin + i]);
    if (byte < (i == 1 ? lead.low : 0x80) || byte > (i == 1 ? lead.high : 0xBF)) return false;
  }
  return true;
}

void AppendRepaired(std::string_view broken, Utf8Repair repair, std::string* out) {
  const size_t count = repair == Utf8Repair::kPerByte ? broken.size() : 1;
  for (size_t i = 0; i < count; ++i) *out += kReplacementCharacter;
}

}  // namespace

char32_t NextCodePoint(std::string_view text, size_t* pos) {
  const uint8_t first = static_cast<uint8_t>(text[(*pos)++]);
  const Lead lead = LeadOf(first);
  if (lead.length == 1) return first;
  if (lead.length == 0) return kInvalidCodePoint;
  char32_t value = first & (0xFF >> (lead.length + 1));
  for (int i = 1; i < lead.length; ++i) {
    if (*pos >= text.size()) return kInvalidCodePoint;
    const uint8_t byte = static_cast<uint8_t>(text[*pos]);
    if (byte < (i == 1 ? lead.low : 0x80) || byte > (i == 1 ? lead.high : 0xBF)) {
      return kInvalidCodePoint;
    }
    value = value << 6 | (byte & 0x3F);
    ++*pos;
  }
  return value;
}

void AppendUtf8(char32_t c, std::string* out) {
  const auto byte = [out](char32_t value) { out->push_back(static_cast<char>(value)); };
  if (c < 0x80) {
    byte(c);
  } else if (c < 0x800) {
    byte(0xC0 | c >> 6);
    byte(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    byte(0xE0 | c >> 12);
    byte(0x80 | (c >> 6 & 0x3F));
    byte(0x80 | (c & 0x3F));
  } else {
    byte(0xF0 | c >> 18);
    byte(0x80 | (c >> 12 & 0x3F));
    byte(0x80 | (c >> 6 & 0x3F));
    byte(0x80 | (c & 0x3F));
  }
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  Utf8Stream stream(Utf8Repair::kPerPrefix);
  stream.Push(text, &out);
  stream.Finish(&out);
  return out;
}

void Utf8Stream::Push(std::string_view bytes, std::string* out) {
  std::string joined;
  if (!held_.empty()) {
    joined = held_.append(bytes);
    held_.clear();
    bytes = joined;
  }
  size_t pos = 0;
  while (pos < bytes.size()) {
    const size_t begin = pos;
    if (NextCodePoint(bytes, &pos) != kInvalidCodePoint) {
      out->append(bytes.substr(begin, pos - begin));
    } else if (IsOpenPrefix(bytes, begin)) {
      held_ = bytes.substr(begin);
      return;
    } else {
      AppendRepaired(bytes.substr(begin, pos - begin), repair_, out);
    }
  }
}

void Utf8Stream::Finish(std::string* out) {
  if (!held_.empty()) AppendRepaired(held_, repair_, out);
  held_.clear();
}

bool IsWhitespace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

}  // namespace palu
