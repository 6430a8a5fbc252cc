#include <unicode/uchar.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "server/text/jinja/access.h"
#include "server/text/jinja/error.h"
#include "server/text/jinja/operators.h"
#include "server/text/jinja/text_functions.h"
#include "server/text/jinja/value_text.h"
#include "server/text/utf8.h"

namespace palu::jinja {
namespace {

using Method = Value (*)(Context&, const std::string& self, const Args& args);

Value TextList(const std::vector<std::string>& texts) {
  std::vector<Value> items(texts.begin(), texts.end());
  return Value::MakeList(std::move(items));
}

std::string Characters(const Args& args) {
  const Value* characters = args.Find(0, "chars");
  return characters == nullptr || characters->is_none() ? "" : args.Text(0, "chars", "");
}

Value SplitMethod(Context&, const std::string& self, const Args& args, bool right) {
  const int64_t limit = args.Int(1, "maxsplit", -1);
  const Value* separator = args.Find(0, "sep");
  if (separator == nullptr || separator->is_none()) {
    return TextList(right ? SplitSpaceRight(self, limit) : SplitSpace(self, limit));
  }
  const std::string text = args.Text(0, "sep", "");
  if (text.empty()) Fail("ValueError", "empty separator");
  return TextList(right ? SplitRight(self, text, limit) : Split(self, text, limit));
}

// start and end as Python's methods take them; the part of the text between.
std::string_view Part(const std::string& self, const Args& args, size_t* begin) {
  const int64_t size = static_cast<int64_t>(CodePointCount(self));
  const auto bound = [&](size_t position, const char* name, int64_t fallback) {
    int64_t at = args.Int(position, name, fallback);
    if (at < 0) at += size;
    return static_cast<size_t>(std::clamp<int64_t>(at, 0, size));
  };
  const size_t from = bound(1, "start", 0);
  const size_t to = std::max(from, bound(2, "end", size));
  *begin = CodePointOffset(self, from);
  return std::string_view(self).substr(*begin, CodePointOffset(self, to) - *begin);
}

Value Affix(const std::string& self, const Args& args, bool prefix) {
  size_t begin = 0;
  const std::string_view part = Part(self, args, &begin);
  const Value& wanted = args.Need(0, "prefix", prefix ? "startswith" : "endswith");
  const auto matches = [&](const Value& one) {
    if (!one.is_string()) {
      TypeError(std::string(prefix ? "startswith" : "endswith") +
                " first arg must be str or a tuple of str, not " + one.TypeName());
    }
    return prefix ? part.starts_with(one.text()) : part.ends_with(one.text());
  };
  if (!wanted.Is(Type::kTuple)) return matches(wanted);
  return std::any_of(wanted.items().begin(), wanted.items().end(), matches);
}

// The code point index of the first or last place, -1 where there is none.
int64_t FindText(const std::string& self, const Args& args, bool last) {
  size_t begin = 0;
  const std::string_view part = Part(self, args, &begin);
  const std::string wanted = args.Text(0, "sub", "");
  const size_t at = last ? part.rfind(wanted) : part.find(wanted);
  if (at == std::string_view::npos) return -1;
  return static_cast<int64_t>(CodePointCount(std::string_view(self).substr(0, begin + at)));
}

Value IndexOf(const std::string& self, const Args& args, bool last) {
  const int64_t at = FindText(self, args, last);
  if (at < 0) Fail("ValueError", "substring not found");
  return at;
}

Value CountText(Context&, const std::string& self, const Args& args) {
  size_t begin = 0;
  const std::string_view part = Part(self, args, &begin);
  const std::string wanted = args.Text(0, "sub", "");
  if (wanted.empty()) return static_cast<int64_t>(CodePointCount(part) + 1);
  return static_cast<int64_t>(Split(part, wanted, -1).size() - 1);
}

Value JoinMethod(Context& context, const std::string& self, const Args& args) {
  std::string out;
  bool first = true;
  int64_t index = 0;
  for (const Value& item : Iterate(args.Need(0, "iterable", "join"))) {
    if (!item.is_string()) {
      TypeError("sequence item " + std::to_string(index) + ": expected str instance, " +
                item.TypeName() + " found");
    }
    if (!first) out += self;
    first = false;
    ++index;
    context.Charge(item.text().size() + self.size());
    out += item.text();
    CheckTextSize(out.size());
  }
  return out;
}

Value PartitionMethod(const std::string& self, const Args& args, bool last) {
  const std::string separator = args.Text(0, "sep", "");
  if (separator.empty()) Fail("ValueError", "empty separator");
  const size_t at = last ? self.rfind(separator) : self.find(separator);
  if (at == std::string::npos) {
    return last ? Value::MakeTuple({"", "", self}) : Value::MakeTuple({self, "", ""});
  }
  return Value::MakeTuple({self.substr(0, at), separator, self.substr(at + separator.size())});
}

enum class Align { kLeft, kRight, kCenter };

Value Justify(Context& context, const std::string& self, const Args& args, Align align) {
  const int64_t width = args.Int(0, "width", 0);
  const std::string fill = args.Text(1, "fillchar", " ");
  if (CodePointCount(fill) != 1) TypeError("The fill character must be exactly one character long");
  const int64_t size = static_cast<int64_t>(CodePointCount(self));
  if (width <= size) return self;
  if (width > static_cast<int64_t>(kMaxTextBytes)) Fail("OverflowError", "a string is too long");
  const int64_t pad = width - size;
  context.Charge(static_cast<size_t>(pad));
  // Python's center puts the odd space left where the width is odd.
  const int64_t left = align == Align::kLeft    ? 0
                       : align == Align::kRight ? pad
                                                : pad / 2 + (pad & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += self;
  for (int64_t i = left; i < pad; ++i) out += fill;
  return out;
}

Value ZeroFill(Context& context, const std::string& self, const Args& args) {
  const int64_t width = args.Int(0, "width", 0);
  const int64_t size = static_cast<int64_t>(CodePointCount(self));
  if (width <= size) return self;
  if (width > static_cast<int64_t>(kMaxTextBytes)) Fail("OverflowError", "a string is too long");
  context.Charge(static_cast<size_t>(width));
  const size_t sign = self.starts_with('+') || self.starts_with('-') ? 1 : 0;
  return self.substr(0, sign) + std::string(static_cast<size_t>(width - size), '0') +
         self.substr(sign);
}

Value ReplaceMethod(Context& context, const std::string& self, const Args& args) {
  const std::string old_text =
      args.Need(0, "old", "replace").is_string() ? args.Text(0, "old", "") : "";
  const std::string new_text = args.Text(1, "new", "");
  std::string out = ReplaceText(self, old_text, new_text, args.Int(2, "count", -1));
  context.Charge(out.size());
  return out;
}

bool IsDecimal(char32_t c) { return u_charType(static_cast<UChar32>(c)) == U_DECIMAL_DIGIT_NUMBER; }
bool IsAlpha(char32_t c) { return u_isalpha(static_cast<UChar32>(c)) != 0; }
bool IsNumber(char32_t c) {
  return u_getNumericValue(static_cast<UChar32>(c)) != U_NO_NUMERIC_VALUE;
}
bool IsDigitType(char32_t c) {
  const int type = u_getIntPropertyValue(static_cast<UChar32>(c), UCHAR_NUMERIC_TYPE);
  return type == U_NT_DECIMAL || type == U_NT_DIGIT;
}
bool IsAlphaNumeric(char32_t c) { return IsAlpha(c) || IsNumber(c); }

struct NamedMethod {
  std::string_view name;
  Method method;
};

constexpr NamedMethod kMethods[] = {
    {"upper", [](Context&, const std::string& s, const Args&) -> Value { return Upper(s); }},
    {"lower", [](Context&, const std::string& s, const Args&) -> Value { return Lower(s); }},
    {"casefold", [](Context&, const std::string& s, const Args&) -> Value { return Lower(s); }},
    {"capitalize",
     [](Context&, const std::string& s, const Args&) -> Value { return Capitalize(s); }},
    {"title", [](Context&, const std::string& s, const Args&) -> Value { return TitleCase(s); }},
    {"swapcase", [](Context&, const std::string& s, const Args&) -> Value { return SwapCase(s); }},
    {"strip",
     [](Context&, const std::string& s, const Args& a) -> Value {
       return Strip(s, StripSide::kBoth, Characters(a));
     }},
    {"lstrip",
     [](Context&, const std::string& s, const Args& a) -> Value {
       return Strip(s, StripSide::kLeft, Characters(a));
     }},
    {"rstrip",
     [](Context&, const std::string& s, const Args& a) -> Value {
       return Strip(s, StripSide::kRight, Characters(a));
     }},
    {"split",
     [](Context& c, const std::string& s, const Args& a) { return SplitMethod(c, s, a, false); }},
    {"rsplit",
     [](Context& c, const std::string& s, const Args& a) { return SplitMethod(c, s, a, true); }},
    {"splitlines",
     [](Context&, const std::string& s, const Args& a) {
       return TextList(SplitLines(s, a.Flag(0, "keepends", false)));
     }},
    {"startswith", [](Context&, const std::string& s, const Args& a) { return Affix(s, a, true); }},
    {"endswith", [](Context&, const std::string& s, const Args& a) { return Affix(s, a, false); }},
    {"find",
     [](Context&, const std::string& s, const Args& a) -> Value { return FindText(s, a, false); }},
    {"rfind",
     [](Context&, const std::string& s, const Args& a) -> Value { return FindText(s, a, true); }},
    {"index", [](Context&, const std::string& s, const Args& a) { return IndexOf(s, a, false); }},
    {"rindex", [](Context&, const std::string& s, const Args& a) { return IndexOf(s, a, true); }},
    {"count", CountText},
    {"join", JoinMethod},
    {"replace", ReplaceMethod},
    {"zfill", ZeroFill},
    {"partition",
     [](Context&, const std::string& s, const Args& a) { return PartitionMethod(s, a, false); }},
    {"rpartition",
     [](Context&, const std::string& s, const Args& a) { return PartitionMethod(s, a, true); }},
    {"ljust", [](Context& c, const std::string& s,
                 const Args& a) { return Justify(c, s, a, Align::kLeft); }},
    {"rjust", [](Context& c, const std::string& s,
                 const Args& a) { return Justify(c, s, a, Align::kRight); }},
    {"center", [](Context& c, const std::string& s,
                  const Args& a) { return Justify(c, s, a, Align::kCenter); }},
    {"removeprefix",
     [](Context&, const std::string& s, const Args& a) -> Value {
       const std::string prefix = a.Text(0, "prefix", "");
       return s.starts_with(prefix) ? s.substr(prefix.size()) : s;
     }},
    {"removesuffix",
     [](Context&, const std::string& s, const Args& a) -> Value {
       const std::string suffix = a.Text(0, "suffix", "");
       return s.ends_with(suffix) ? s.substr(0, s.size() - suffix.size()) : s;
     }},
    {"format",
     [](Context& c, const std::string& s, const Args& a) -> Value { return BraceFormat(c, s, a); }},
    {"isspace",
     [](Context&, const std::string& s, const Args&) -> Value { return All(s, IsPythonSpace); }},
    {"isdigit",
     [](Context&, const std::string& s, const Args&) -> Value { return All(s, IsDigitType); }},
    {"isdecimal",
     [](Context&, const std::string& s, const Args&) -> Value { return All(s, IsDecimal); }},
    {"isnumeric",
     [](Context&, const std::string& s, const Args&) -> Value { return All(s, IsNumber); }},
    {"isalpha",
     [](Context&, const std::string& s, const Args&) -> Value { return All(s, IsAlpha); }},
    {"isalnum",
     [](Context&, const std::string& s, const Args&) -> Value { return All(s, IsAlphaNumeric); }},
    {"isupper",
     [](Context&, const std::string& s, const Args&) -> Value { return IsUpperText(s); }},
    {"islower",
     [](Context&, const std::string& s, const Args&) -> Value { return IsLowerText(s); }},
};

}  // namespace

std::optional<Value> FindTextMethod(const Value& text, const std::string& name) {
  const auto* found = std::find_if(std::begin(kMethods), std::end(kMethods),
                                   [&](const NamedMethod& one) { return one.name == name; });
  if (found == std::end(kMethods)) return std::nullopt;
  return MakeCallable(name, [text, method = found->method](Context& context, const Args& args) {
    context.Charge(text);
    Value result = method(context, text.text(), args);
    // Text that needs no escaping stays that way.
    return text.safe() && result.is_string() ? Value(result.text(), true) : result;
  });
}

}  // namespace palu::jinja
