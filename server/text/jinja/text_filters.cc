#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <string>

#include "server/text/jinja/access.h"
#include "server/text/jinja/error.h"
#include "server/text/jinja/filters.h"
#include "server/text/jinja/operators.h"
#include "server/text/jinja/text_functions.h"
#include "server/text/jinja/value_text.h"

namespace palu::jinja {
namespace {

Value Trim(Context&, const Value& value, const Args& args) {
  const Value* given = args.Find(0, "chars");
  const bool space = given == nullptr || given->is_none();
  return Value(Strip(Str(value), StripSide::kBoth, space ? "" : args.Text(0, "chars", "")),
               value.safe());
}

Value TitleFilter(Context&, const Value& value, const Args&) {
  const std::string text = Str(value);
  std::string out;
  size_t begin = 0;
  const auto word = [&](size_t end) {
    const std::string_view part = std::string_view(text).substr(begin, end - begin);
    if (part.empty()) return;
    const size_t first = CodePointOffset(part, 1);
    out += Upper(part.substr(0, first)) + Lower(part.substr(first));
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const bool separator = std::string_view("-({[<").find(text[i]) != std::string_view::npos ||
                           std::isspace(static_cast<unsigned char>(text[i])) != 0;
    if (!separator) continue;
    word(i);
    out += text[i];
    begin = i + 1;
  }
  word(text.size());
  return Value(std::move(out), value.safe());
}

Value Replace(Context&, const Value& value, const Args& args) {
  const std::string text = Str(value);
  const std::string old_text = Str(args.Need(0, "old", "do_replace"));
  const std::string new_text = Str(args.Need(1, "new", "do_replace"));
  return ReplaceText(text, old_text, new_text, args.Int(2, "count", -1));
}

Value Indent(Context& context, const Value& value, const Args& args) {
  const Value* width = args.Find(0, "width");
  std::string indent(4, ' ');
  if (width != nullptr && width->is_string()) indent = width->text();
  if (width != nullptr && width->is_integer()) {
    indent.assign(static_cast<size_t>(std::clamp<int64_t>(width->integer(), 0, 10000)), ' ');
  }
  const bool first = args.Flag(1, "first", false);
  const bool blank = args.Flag(2, "blank", false);
  const std::vector<std::string> lines = SplitLines(Str(value) + "\n", false);
  std::string out = first ? indent : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += indent;
    out += lines[i];
    context.Charge(indent.size());
  }
  return Value(std::move(out), value.safe());
}

Value ToJsonFilter(Context&, const Value& value, const Args& args) {
  JsonStyle style;
  style.ensure_ascii = args.Flag(0, "ensure_ascii", false);
  const Value* indent = args.Find(1, "indent");
  if (indent != nullptr && !indent->is_none()) {
    style.item_separator = ",";
    style.indent =
        indent->is_string()
            ? indent->text()
            : std::string(
                  static_cast<size_t>(std::clamp<int64_t>(args.Int(1, "indent", 0), 0, 100)), ' ');
  }
  const Value* separators = args.Find(2, "separators");
  if (separators != nullptr && !separators->is_none()) {
    const std::vector<Value> pair = Iterate(*separators);
    if (pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) {
      Fail("ValueError", "separators must be two strings");
    }
    style.item_separator = pair[0].text();
    style.key_separator = pair[1].text();
  }
  style.sort_keys = args.Flag(3, "sort_keys", false);
  return ToJson(value, style);
}

Value IntFilter(Context&, const Value& value, const Args& args) {
  const Value* fallback = args.Find(0, "default");
  const Value otherwise = fallback == nullptr ? Value(0) : *fallback;
  if (value.is_integer()) return value.integer();
  if (value.Is(Type::kFloat)) {
    return std::abs(value.real()) < 9e18 ? Value(static_cast<int64_t>(value.real())) : otherwise;
  }
  if (!value.is_string()) return otherwise;
  std::string text = Strip(value.text(), StripSide::kBoth, {});
  const int64_t base = args.Int(1, "base", 10);
  if (base < 2 || base > 36) return otherwise;
  if (base == 16 && (text.starts_with("0x") || text.starts_with("0X"))) text.erase(0, 2);
  if (text.starts_with('+')) text.erase(0, 1);
  int64_t number = 0;
  const char* end = text.data() + text.size();
  auto result = std::from_chars(text.data(), end, number, static_cast<int>(base));
  if (result.ec == std::errc() && result.ptr == end) return number;
  double real = 0;
  result = std::from_chars(text.data(), end, real);
  const bool whole =
      base == 10 && result.ec == std::errc() && result.ptr == end && std::abs(real) < 9e18;
  return whole ? Value(static_cast<int64_t>(real)) : otherwise;
}

Value FloatFilter(Context&, const Value& value, const Args& args) {
  const Value* fallback = args.Find(0, "default");
  const Value otherwise = fallback == nullptr ? Value(0.0) : *fallback;
  if (value.is_number()) return value.number();
  if (!value.is_string()) return otherwise;
  std::string text = Strip(value.text(), StripSide::kBoth, {});
  if (text.starts_with('+')) text.erase(0, 1);
  double number = 0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, number);
  return result.ec == std::errc() && result.ptr == end && !text.empty() ? Value(number) : otherwise;
}

Value Round(Context&, const Value& value, const Args& args) {
  RequireDefined(value);
  if (!value.is_number())
    TypeError(std::string("type ") + value.TypeName() + " doesn't define __round__ method");
  const int64_t precision = std::clamp<int64_t>(args.Int(0, "precision", 0), -300, 300);
  const std::string method = args.Text(1, "method", "common");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double number = value.number();
  if (method == "ceil") return std::ceil(number * scale) / scale;
  if (method == "floor") return std::floor(number * scale) / scale;
  if (method != "common") Fail("FilterArgumentError", "method must be common, ceil or floor");
  if (value.is_integer()) return value;
  if (precision <= 0) return std::nearbyint(number * scale) / scale;
  // Decimal digits decide, as in Python.
  char buffer[400];
  std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(std::min<int64_t>(precision, 60)),
                number);
  return std::strtod(buffer, nullptr);
}

Value Abs(Context& context, const Value& value, const Args&) {
  RequireDefined(value);
  if (!value.is_number())
    TypeError(std::string("bad operand type for abs(): '") + value.TypeName() + "'");
  return value.number() < 0 ? Negate(value) : Binary(context, "+", value, Value(0));
}

Value Truncate(Context&, const Value& value, const Args& args) {
  const std::string text = Str(value);
  const int64_t length = args.Int(0, "length", 255);
  const bool kill_words = args.Flag(1, "killwords", false);
  const std::string end = args.Text(2, "end", "...");
  const int64_t leeway = args.Int(3, "leeway", 5);
  const int64_t end_size = static_cast<int64_t>(CodePointCount(end));
  if (length < end_size || leeway < 0)
    Fail("AssertionError", "expected length >= len(end) and leeway >= 0");
  if (static_cast<int64_t>(CodePointCount(text)) <= length + leeway) return value;
  const std::string cut =
      text.substr(0, CodePointOffset(text, static_cast<size_t>(length - end_size)));
  if (kill_words) return cut + end;
  const size_t space = cut.rfind(' ');
  return cut.substr(0, space) + end;
}

Value Center(Context& context, const Value& value, const Args& args) {
  Args width;
  width.positional.push_back(args.Int(0, "width", 80));
  return Call(context, *FindTextMethod(Value(Str(value)), "center"), width);
}

Value FormatFilter(Context&, const Value& value, const Args& args) {
  if (!args.positional.empty() && !args.named.empty()) {
    Fail("FilterArgumentError", "can't handle positional and keyword arguments at the same time");
  }
  if (args.named.empty()) return PercentFormat(Str(value), Value::MakeTuple(args.positional));
  Dict named;
  for (const auto& [name, item] : args.named) named.Set(name, item);
  return PercentFormat(Str(value), named);
}

Value UrlEncode(Context&, const Value& value, const Args&) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  const auto quote = [](const std::string& text, bool path) {
    std::string out;
    for (const char c : text) {
      const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 ||
                         std::string_view("_.-~").find(c) != std::string_view::npos ||
                         (path && c == '/');
      const auto byte = static_cast<unsigned char>(c);
      if (c == ' ' && !path) {
        out += '+';
        continue;
      }
      out += plain ? std::string(1, c) : std::string("%") + kDigits[byte >> 4] + kDigits[byte & 15];
    }
    return out;
  };
  if (!value.Is(Type::kDict)) return quote(Str(value), true);
  std::string out;
  for (const auto& [key, item] : value.dict().entries()) {
    if (!out.empty()) out += '&';
    out += quote(Str(key), false) + "=" + quote(Str(item), false);
  }
  return out;
}

Value WordCount(Context&, const Value& value, const Args&) {
  int64_t words = 0;
  bool inside = false;
  for (const char c : Str(value)) {
    const bool word =
        std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || (c & 0x80) != 0;
    if (word && !inside) ++words;
    inside = word;
  }
  return words;
}

Value Escape(Context&, const Value& value, const Args&) {
  return value.safe() ? value : Value(EscapeHtml(Str(value)), true);
}

constexpr NamedFilter kFilters[] = {
    {"trim", Trim},
    {"title", TitleFilter},
    {"replace", Replace},
    {"indent", Indent},
    {"tojson", ToJsonFilter},
    {"int", IntFilter},
    {"float", FloatFilter},
    {"round", Round},
    {"abs", Abs},
    {"truncate", Truncate},
    {"center", Center},
    {"format", FormatFilter},
    {"urlencode", UrlEncode},
    {"wordcount", WordCount},
    {"escape", Escape},
    {"e", Escape},
    {"forceescape",
     [](Context&, const Value& v, const Args&) { return Value(EscapeHtml(Str(v)), true); }},
    {"safe", [](Context&, const Value& v, const Args&) { return Value(Str(v), true); }},
    {"string",
     [](Context&, const Value& v, const Args&) { return v.is_string() ? v : Value(Str(v)); }},
    {"upper", [](Context&, const Value& v, const Args&) { return Value(Upper(Str(v)), v.safe()); }},
    {"lower", [](Context&, const Value& v, const Args&) { return Value(Lower(Str(v)), v.safe()); }},
    {"capitalize",
     [](Context&, const Value& v, const Args&) { return Value(Capitalize(Str(v)), v.safe()); }},
};

}  // namespace

Filter FindTextFilter(std::string_view name) {
  for (const NamedFilter& one : kFilters) {
    if (one.name == name) return one.filter;
  }
  return nullptr;
}

}  // namespace palu::jinja
