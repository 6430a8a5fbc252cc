#include "server/text/jinja/value_text.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "server/text/jinja/error.h"
#include "server/text/utf8.h"

namespace palu::jinja {
namespace {

bool IsPrintable(char32_t c) {
  const auto mask = U_MASK(u_charType(static_cast<UChar32>(c)));
  return c == ' ' || (mask & (U_GC_C_MASK | U_GC_Z_MASK)) == 0;
}

void AppendHex(const char* prefix, int digits, char32_t c, std::string* out) {
  std::array<char, 16> buffer;
  std::snprintf(buffer.data(), buffer.size(), "%0*x", digits, static_cast<unsigned>(c));
  out->append(prefix).append(buffer.data());
}

std::string TextRepr(std::string_view text) {
  const bool single =
      text.find('\'') == std::string_view::npos || text.find('"') != std::string_view::npos;
  const char quote = single ? '\'' : '"';
  std::string out(1, quote);
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = NextCodePoint(text, &pos);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (IsPrintable(c)) {
      AppendUtf8(c, &out);
    } else if (c < 0x100) {
      AppendHex("\\x", 2, c, &out);
    } else if (c < 0x10000) {
      AppendHex("\\u", 4, c, &out);
    } else {
      AppendHex("\\U", 8, c, &out);
    }
  }
  out += quote;
  return out;
}

void AppendRepr(const Value& value, int depth, std::string* out);

void AppendItems(const Value& value, int depth, std::string* out) {
  const bool tuple = value.Is(Type::kTuple);
  *out += tuple ? '(' : '[';
  bool first = true;
  for (const Value& item : value.items()) {
    if (!first) *out += ", ";
    first = false;
    AppendRepr(item, depth + 1, out);
  }
  if (tuple && value.items().size() == 1) *out += ',';
  *out += tuple ? ')' : ']';
}

void AppendDict(const Value& value, int depth, std::string* out) {
  *out += '{';
  bool first = true;
  for (const auto& [key, item] : value.dict().entries()) {
    if (!first) *out += ", ";
    first = false;
    AppendRepr(key, depth + 1, out);
    *out += ": ";
    AppendRepr(item, depth + 1, out);
  }
  *out += '}';
}

void AppendNamespace(const Value& value, int depth, std::string* out) {
  *out += "<Namespace {";
  bool first = true;
  for (const std::string& name : value.name_space().order) {
    if (!first) *out += ", ";
    first = false;
    *out += TextRepr(name) + ": ";
    AppendRepr(value.name_space().attributes.at(name), depth + 1, out);
  }
  *out += "}>";
}

void AppendRepr(const Value& value, int depth, std::string* out) {
  CheckTextSize(out->size());
  // Namespaces can hold themselves.
  if (depth > 2 * kMaxValueDepth) Fail("RecursionError", "a value nests too deeply");
  switch (value.type()) {
    case Type::kUndefined:
      *out += "Undefined";
      return;
    case Type::kNone:
      *out += "None";
      return;
    case Type::kBool:
      *out += value.boolean() ? "True" : "False";
      return;
    case Type::kInt:
      *out += std::to_string(value.integer());
      return;
    case Type::kFloat:
      *out += FloatRepr(value.real());
      return;
    case Type::kString:
      *out += value.safe() ? "Markup(" + TextRepr(value.text()) + ")" : TextRepr(value.text());
      return;
    case Type::kList:
    case Type::kTuple:
      return AppendItems(value, depth, out);
    case Type::kDict:
      return AppendDict(value, depth, out);
    case Type::kNamespace:
      return AppendNamespace(value, depth, out);
    case Type::kGenerator:
    case Type::kLoop:
    case Type::kCallable:
      *out += std::string("<") + value.TypeName() + ">";
      return;
  }
}

void AppendJsonText(std::string_view text, bool ensure_ascii, std::string* out) {
  *out += '"';
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = NextCodePoint(text, &pos);
    if (c == '"' || c == '\\') {
      *out += '\\';
      *out += static_cast<char>(c);
    } else if (c == '\n') {
      *out += "\\n";
    } else if (c == '\r') {
      *out += "\\r";
    } else if (c == '\t') {
      *out += "\\t";
    } else if (c == '\f') {
      *out += "\\f";
    } else if (c == '\b') {
      *out += "\\b";
    } else if (c < 0x20 || (ensure_ascii && c >= 0x7F && c < 0x10000)) {
      c == 0x7F ? AppendUtf8(c, out) : AppendHex("\\u", 4, c, out);
    } else if (ensure_ascii && c >= 0x10000) {
      AppendHex("\\u", 4, 0xD7C0 + (c >> 10), out);
      AppendHex("\\u", 4, 0xDC00 + (c & 0x3FF), out);
    } else {
      AppendUtf8(c, out);
    }
  }
  *out += '"';
}

// Writes one document. Used on the stack, by one thread.
class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  void Write(const Value& value, int depth) {
    CheckTextSize(out.size());
    switch (value.type()) {
      case Type::kNone:
        out += "null";
        return;
      case Type::kBool:
        out += value.boolean() ? "true" : "false";
        return;
      case Type::kInt:
        out += std::to_string(value.integer());
        return;
      case Type::kFloat:
        return WriteFloat(value.real());
      case Type::kString:
        return AppendJsonText(value.text(), style_.ensure_ascii, &out);
      case Type::kList:
      case Type::kTuple:
        return WriteArray(value.items(), depth);
      case Type::kDict:
        return WriteObject(value.dict(), depth);
      default:
        TypeError(std::string("Object of type ") + value.TypeName() + " is not JSON serializable");
    }
  }

  std::string out;

 private:
  void WriteFloat(double number) {
    if (std::isnan(number)) {
      out += "NaN";
    } else if (std::isinf(number)) {
      out += number < 0 ? "-Infinity" : "Infinity";
    } else {
      out += FloatRepr(number);
    }
  }

  void NewLine(int depth) {
    if (!style_.indent) return;
    out += '\n';
    for (int i = 0; i < depth; ++i) out += *style_.indent;
    CheckTextSize(out.size());
  }

  void WriteArray(const std::vector<Value>& items, int depth) {
    out += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += style_.item_separator;
      NewLine(depth + 1);
      Write(items[i], depth + 1);
    }
    if (!items.empty()) NewLine(depth);
    out += ']';
  }

  static std::string KeyText(const Value& key) {
    switch (key.type()) {
      case Type::kString:
        return key.text();
      case Type::kNone:
        return "null";
      case Type::kBool:
        return key.boolean() ? "true" : "false";
      case Type::kInt:
      case Type::kFloat:
        return Repr(key);
      default:
        TypeError(std::string("keys must be str, int, float, bool or None, not ") + key.TypeName());
    }
  }

  void WriteObject(const Dict& dict, int depth) {
    std::vector<std::pair<std::string, const Value*>> entries;
    for (const auto& [key, value] : dict.entries()) entries.emplace_back(KeyText(key), &value);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(),
                       [](const auto& a, const auto& b) { return a.first < b.first; });
    }
    out += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out += style_.item_separator;
      NewLine(depth + 1);
      AppendJsonText(entries[i].first, style_.ensure_ascii, &out);
      out += style_.key_separator;
      Write(*entries[i].second, depth + 1);
    }
    if (!entries.empty()) NewLine(depth);
    out += '}';
  }

  const JsonStyle& style_;
};

}  // namespace

void CheckTextSize(size_t bytes) {
  if (bytes > kMaxTextBytes) Fail("OverflowError", "a string is too long");
}

std::string FloatRepr(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  std::array<char, 64> buffer;
  const auto scientific = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number,
                                        std::chars_format::scientific);
  std::string text(buffer.data(), scientific.ptr);
  const int exponent = std::atoi(text.c_str() + text.find('e') + 1);
  if (exponent < -4 || exponent >= 16) return text;
  const auto fixed =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), number, std::chars_format::fixed);
  text.assign(buffer.data(), fixed.ptr);
  if (text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::string Repr(const Value& value) {
  std::string out;
  AppendRepr(value, 0, &out);
  CheckTextSize(out.size());
  return out;
}

std::string Str(const Value& value) {
  if (value.is_string()) return value.text();
  return value.is_undefined() ? std::string() : Repr(value);
}

std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string ToJson(const Value& value, const JsonStyle& style) {
  JsonWriter writer(style);
  writer.Write(value, 0);
  CheckTextSize(writer.out.size());
  return std::move(writer.out);
}

size_t CodePointCount(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

size_t CodePointOffset(std::string_view text, size_t index) {
  size_t pos = 0;
  for (; pos < text.size() && index > 0; --index) NextCodePoint(text, &pos);
  return pos;
}

}  // namespace palu::jinja
