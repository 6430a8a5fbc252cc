#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>

#include "server/text/jinja/access.h"
#include "server/text/jinja/error.h"
#include "server/text/jinja/operators.h"
#include "server/text/jinja/text_functions.h"
#include "server/text/jinja/value_text.h"

namespace palu::jinja {
namespace {

constexpr int kMaxWidth = 1000;

// One conversion: flags, width, precision and type, as both of Python's dialects have them.
struct Spec {
  std::string flags;  // of - + 0 space #
  int width = 0;
  int precision = -1;
  char type = 's';
};

std::string Pad(std::string text, int width, bool left, char fill = ' ') {
  const int missing = width - static_cast<int>(CodePointCount(text));
  if (missing <= 0) return text;
  const std::string padding(static_cast<size_t>(missing), fill);
  return left ? text + padding : padding + text;
}

std::string Number(const Spec& spec, const Value& value) {
  if (!value.is_number()) {
    TypeError("%" + std::string(1, spec.type) + " format: a real number is required, not " +
              value.TypeName());
  }
  const bool integer = spec.type == 'd' || spec.type == 'x' || spec.type == 'X' || spec.type == 'o';
  std::string format = "%" + spec.flags + std::to_string(spec.width);
  if (spec.precision >= 0) format += "." + std::to_string(spec.precision);
  format += integer ? "ll" : "";
  format += spec.type;
  std::array<char, kMaxWidth + 400> buffer;
  if (integer) {
    const double number = value.number();
    if (!(std::abs(number) < 9e18)) Fail("OverflowError", "an integer is too large");
    const long long whole = value.is_integer() ? value.integer() : static_cast<long long>(number);
    std::snprintf(buffer.data(), buffer.size(), format.c_str(), whole);
  } else {
    std::snprintf(buffer.data(), buffer.size(), format.c_str(), value.number());
  }
  return buffer.data();
}

std::string Convert(const Spec& spec, const Value& value) {
  const bool left = spec.flags.find('-') != std::string::npos;
  std::string text;
  switch (spec.type) {
    case 's':
      text = Str(value);
      break;
    case 'r':
      text = Repr(value);
      break;
    case 'd':
    case 'x':
    case 'X':
    case 'o':
    case 'f':
    case 'F':
    case 'e':
    case 'E':
    case 'g':
    case 'G':
      return Number(spec, value);
    default:
      Fail("ValueError", "unsupported format character '" + std::string(1, spec.type) + "'");
  }
  if (spec.precision >= 0) {
    text.resize(CodePointOffset(text, static_cast<size_t>(spec.precision)));
  }
  return Pad(std::move(text), spec.width, left);
}

int ReadInt(const std::string& text, size_t* pos) {
  int number = 0;
  while (*pos < text.size() && text[*pos] >= '0' && text[*pos] <= '9') {
    number = number * 10 + (text[(*pos)++] - '0');
    if (number > kMaxWidth) Fail("OverflowError", "a format's width or precision is too large");
  }
  return number;
}

// "%…" behind the percent sign; the key of %(key)s where there is one.
Spec ReadPercent(const std::string& format, size_t* pos, std::optional<std::string>* key) {
  Spec spec;
  if (*pos < format.size() && format[*pos] == '(') {
    const size_t end = format.find(')', *pos);
    if (end == std::string::npos) Fail("ValueError", "incomplete format key");
    *key = format.substr(*pos + 1, end - *pos - 1);
    *pos = end + 1;
  }
  while (*pos < format.size() &&
         std::string_view("-+0 #").find(format[*pos]) != std::string_view::npos) {
    if (spec.flags.size() < 5) spec.flags += format[*pos];
    ++*pos;
  }
  spec.width = ReadInt(format, pos);
  if (*pos < format.size() && format[*pos] == '.') {
    ++*pos;
    spec.precision = ReadInt(format, pos);
  }
  if (*pos >= format.size()) Fail("ValueError", "incomplete format");
  spec.type = format[(*pos)++];
  if (spec.type == 'i' || spec.type == 'u') spec.type = 'd';
  return spec;
}

// [[fill]align][sign][0][width][.precision][type]
std::string FormatBySpec(const Value& value, const std::string& text) {
  if (text.empty()) return Str(value);
  size_t pos = 0;
  char fill = ' ';
  char align = value.is_number() ? '>' : '<';
  const auto is_align = [&](size_t at) {
    return at < text.size() && std::string_view("<>^").find(text[at]) != std::string_view::npos;
  };
  if (is_align(1)) {
    fill = text[0];
    align = text[1];
    pos = 2;
  } else if (is_align(0)) {
    align = text[pos++];
  }
  Spec spec;
  if (pos < text.size() && (text[pos] == '+' || text[pos] == ' ' || text[pos] == '-')) {
    if (text[pos] != '-') spec.flags += text[pos];
    ++pos;
  }
  if (pos < text.size() && text[pos] == '0') {
    fill = '0';
    ++pos;
  }
  const int width = ReadInt(text, &pos);
  const bool grouped = pos < text.size() && text[pos] == ',';
  if (pos < text.size() && text[pos] == '.') {
    ++pos;
    spec.precision = ReadInt(text, &pos);
  }
  spec.type = pos < text.size()        ? text[pos++]
              : value.Is(Type::kFloat) ? 'g'
              : value.is_number()      ? 'd'
                                       : 's';
  if (grouped || pos < text.size()) Fail("ValueError", "Invalid format specifier '" + text + "'");
  std::string out = Convert(spec, value);
  if (align == '^') {
    const int missing = width - static_cast<int>(CodePointCount(out));
    if (missing > 0) out = std::string(static_cast<size_t>(missing / 2), fill) + out;
    return Pad(std::move(out), width, /*left=*/true, fill);
  }
  return Pad(std::move(out), width, align == '<', fill);
}

// name.attribute[key] of a replacement field.
Value Field(const std::string& name, const Args& args, size_t* automatic) {
  size_t end = name.find_first_of(".[");
  const std::string first = name.substr(0, end);
  Value value;
  const bool number = first.find_first_not_of("0123456789") == std::string::npos;
  if (number) {
    const size_t index =
        first.empty() ? (*automatic)++ : static_cast<size_t>(std::atoi(first.c_str()));
    if (index >= args.positional.size()) {
      Fail("IndexError", "Replacement index " + std::to_string(index) +
                             " out of range for positional args tuple");
    }
    value = args.positional[index];
  } else {
    const Value* found = args.Find(args.positional.size(), first);
    if (found == nullptr) Fail("KeyError", Repr(Value(first)));
    value = *found;
  }
  while (end < name.size()) {
    const bool item = name[end] == '[';
    const size_t next = item ? name.find(']', end) : name.find_first_of(".[", end + 1);
    if (item && next == std::string::npos) Fail("ValueError", "expected '}' before end of string");
    const std::string key = name.substr(end + 1, next == std::string::npos ? next : next - end - 1);
    const bool index =
        item && !key.empty() && key.find_first_not_of("0123456789") == std::string::npos;
    value = !item ? GetAttribute(value, key)
                  : GetItem(value, index ? Value(std::atoi(key.c_str())) : Value(key));
    end = item ? next + 1 : next;
  }
  return value;
}

}  // namespace

std::string PercentFormat(const std::string& format, const Value& arguments) {
  const bool tuple = arguments.Is(Type::kTuple);
  size_t used = 0;
  std::string out;
  for (size_t pos = 0; pos < format.size();) {
    const char c = format[pos++];
    if (c != '%') {
      out += c;
      continue;
    }
    if (pos < format.size() && format[pos] == '%') {
      out += format[pos++];
      continue;
    }
    std::optional<std::string> key;
    const Spec spec = ReadPercent(format, &pos, &key);
    if (key) {
      if (!arguments.Is(Type::kDict)) TypeError("format requires a mapping");
      out += Convert(spec, GetItem(arguments, Value(*key)));
      used = 1;
      continue;
    }
    const size_t available = tuple ? arguments.items().size() : 1;
    if (used >= available) TypeError("not enough arguments for format string");
    out += Convert(spec, tuple ? arguments.items()[used] : arguments);
    ++used;
    if (out.size() > kMaxTextBytes) Fail("OverflowError", "a string is too long");
  }
  const bool rest =
      tuple ? used < arguments.items().size() : used == 0 && !arguments.Is(Type::kDict);
  if (rest) TypeError("not all arguments converted during string formatting");
  return out;
}

std::string BraceFormat(Context& context, const std::string& format, const Args& args) {
  std::string out;
  size_t automatic = 0;
  for (size_t pos = 0; pos < format.size(); ++pos) {
    const char c = format[pos];
    if (c != '{' && c != '}') {
      out += c;
      continue;
    }
    if (pos + 1 < format.size() && format[pos + 1] == c) {
      out += format[pos++];
      continue;
    }
    if (c == '}') Fail("ValueError", "Single '}' encountered in format string");
    const size_t end = format.find('}', pos);
    if (end == std::string::npos) Fail("ValueError", "Single '{' encountered in format string");
    std::string field = format.substr(pos + 1, end - pos - 1);
    if (field.find('{') != std::string::npos)
      Fail("ValueError", "nested replacement fields are not supported");
    pos = end;
    std::string spec;
    if (const size_t colon = field.find(':'); colon != std::string::npos) {
      spec = field.substr(colon + 1);
      field.resize(colon);
    }
    const bool repr = field.ends_with("!r");
    if (repr || field.ends_with("!s")) field.resize(field.size() - 2);
    const Value value = Field(field, args, &automatic);
    const std::string text = FormatBySpec(repr ? Value(Repr(value)) : value, spec);
    context.Charge(text.size());
    out += text;
    if (out.size() > kMaxTextBytes) Fail("OverflowError", "a string is too long");
  }
  return out;
}

}  // namespace palu::jinja
