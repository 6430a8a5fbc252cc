#include <cmath>
#include <string>

#include "server/text/jinja/error.h"
#include "server/text/jinja/filters.h"
#include "server/text/jinja/operators.h"
#include "server/text/jinja/text_functions.h"
#include "server/text/jinja/value_text.h"

namespace palu::jinja {
namespace {

int64_t Integer(const Value& value) {
  RequireDefined(value);
  if (value.is_integer()) return value.integer();
  if (value.Is(Type::kFloat) && std::abs(value.real()) < 9e18)
    return static_cast<int64_t>(value.real());
  TypeError(std::string("not all arguments converted during string formatting: '") +
            value.TypeName() + "' is no number");
}

bool DivisibleBy(Context& context, const Value& value, const Args& args) {
  const Value rest = Binary(context, "%", value, args.Need(0, "num", "divisibleby"));
  return Equals(context, rest, Value(0));
}

bool SameAs(Context& context, const Value& value, const Args& args) {
  const Value& other = args.Need(0, "other", "sameas");
  if (value.type() != other.type()) return false;
  const bool shared = value.is_sequence() || value.Is(Type::kDict) || value.Is(Type::kNamespace);
  return shared ? value.Identity() == other.Identity() : Equals(context, value, other);
}

template <int kOperator>
bool Compared(Context& context, const Value& value, const Args& args) {
  static const std::string operators[] = {"==", "!=", "<", "<=", ">", ">=", "in"};
  return Compare(context, operators[kOperator], value, args.Need(0, "other", "test"));
}

bool IsIterable(const Value& value) {
  return value.is_string() || value.is_sequence() || value.Is(Type::kDict) ||
         value.Is(Type::kGenerator) || value.is_undefined() || value.Is(Type::kLoop);
}

struct NamedTest {
  std::string_view name;
  Test test;
};

constexpr NamedTest kTests[] = {
    {"defined", [](Context&, const Value& v, const Args&) { return !v.is_undefined(); }},
    {"undefined", [](Context&, const Value& v, const Args&) { return v.is_undefined(); }},
    {"none", [](Context&, const Value& v, const Args&) { return v.is_none(); }},
    {"boolean", [](Context&, const Value& v, const Args&) { return v.Is(Type::kBool); }},
    {"true",
     [](Context&, const Value& v, const Args&) { return v.Is(Type::kBool) && v.boolean(); }},
    {"false",
     [](Context&, const Value& v, const Args&) { return v.Is(Type::kBool) && !v.boolean(); }},
    {"integer", [](Context&, const Value& v, const Args&) { return v.Is(Type::kInt); }},
    {"float", [](Context&, const Value& v, const Args&) { return v.Is(Type::kFloat); }},
    {"number", [](Context&, const Value& v, const Args&) { return v.is_number(); }},
    {"string", [](Context&, const Value& v, const Args&) { return v.is_string(); }},
    {"mapping", [](Context&, const Value& v, const Args&) { return v.Is(Type::kDict); }},
    {"sequence",
     [](Context&, const Value& v, const Args&) {
       return v.is_string() || v.is_sequence() || v.Is(Type::kDict) || v.is_undefined();
     }},
    {"iterable", [](Context&, const Value& v, const Args&) { return IsIterable(v); }},
    {"callable",
     [](Context&, const Value& v, const Args&) {
       return v.Is(Type::kCallable) || v.Is(Type::kLoop) || v.is_undefined();
     }},
    {"escaped", [](Context&, const Value& v, const Args&) { return v.safe(); }},
    {"odd", [](Context&, const Value& v, const Args&) { return Integer(v) % 2 != 0; }},
    {"even", [](Context&, const Value& v, const Args&) { return Integer(v) % 2 == 0; }},
    {"divisibleby", DivisibleBy},
    {"sameas", SameAs},
    {"lower", [](Context&, const Value& v, const Args&) { return IsLowerText(Str(v)); }},
    {"upper", [](Context&, const Value& v, const Args&) { return IsUpperText(Str(v)); }},
    {"filter", [](Context&, const Value& v,
                  const Args&) { return v.is_string() && FindFilter(v.text()) != nullptr; }},
    {"test", [](Context&, const Value& v,
                const Args&) { return v.is_string() && FindTest(v.text()) != nullptr; }},
    {"in", Compared<6>},
    {"eq", Compared<0>},
    {"equalto", Compared<0>},
    {"==", Compared<0>},
    {"ne", Compared<1>},
    {"!=", Compared<1>},
    {"lt", Compared<2>},
    {"lessthan", Compared<2>},
    {"<", Compared<2>},
    {"le", Compared<3>},
    {"<=", Compared<3>},
    {"gt", Compared<4>},
    {"greaterthan", Compared<4>},
    {">", Compared<4>},
    {"ge", Compared<5>},
    {">=", Compared<5>},
};

}  // namespace

Test FindTest(std::string_view name) {
  for (const NamedTest& one : kTests) {
    if (one.name == name) return one.test;
  }
  return nullptr;
}

}  // namespace palu::jinja
