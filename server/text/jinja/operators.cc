#include "server/text/jinja/operators.h"

#include <cmath>
#include <limits>

#include "server/text/jinja/error.h"
#include "server/text/jinja/value_text.h"

namespace palu::jinja {
namespace {

[[noreturn]] void Unsupported(const std::string& op, const Value& left, const Value& right) {
  TypeError("unsupported operand type(s) for " + (op == "**" ? "** or pow()" : op) + ": '" +
            left.TypeName() + "' and '" + right.TypeName() + "'");
}

[[noreturn]] void Overflow() { Fail("OverflowError", "an integer is too large"); }

Value AddText(Context& context, const Value& left, const Value& right) {
  if (!right.is_string()) {
    TypeError(std::string("can only concatenate str (not \"") + right.TypeName() + "\") to str");
  }
  const bool safe = left.safe() || right.safe();
  const std::string a = safe && !left.safe() ? EscapeHtml(left.text()) : left.text();
  const std::string b = safe && !right.safe() ? EscapeHtml(right.text()) : right.text();
  CheckTextSize(a.size() + b.size());
  context.Charge(a.size() + b.size());
  return Value(a + b, safe);
}

Value Add(Context& context, const Value& left, const Value& right) {
  if (left.is_string()) return AddText(context, left, right);
  if (left.is_sequence()) {
    if (right.type() != left.type()) {
      TypeError(std::string("can only concatenate ") + left.TypeName() + " (not \"" +
                right.TypeName() + "\") to " + left.TypeName());
    }
    std::vector<Value> items = left.items();
    items.insert(items.end(), right.items().begin(), right.items().end());
    context.Charge(items.size() * sizeof(Value));
    return left.Is(Type::kList) ? Value::MakeList(std::move(items))
                                : Value::MakeTuple(std::move(items));
  }
  Unsupported("+", left, right);
}

Value Repeat(Context& context, const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  const size_t unit =
      value.is_string() ? value.text().size() : value.items().size() * sizeof(Value);
  if (unit > 0 && static_cast<size_t>(count) > kMaxTextBytes / unit) {
    Fail("OverflowError", "a repeated value is too long");
  }
  context.Charge(unit * static_cast<size_t>(count));
  if (value.is_string()) {
    std::string text;
    for (int64_t i = 0; i < count && unit > 0; ++i) text += value.text();
    return Value(std::move(text), value.safe());
  }
  std::vector<Value> items;
  for (int64_t i = 0; i < count && unit > 0; ++i) {
    items.insert(items.end(), value.items().begin(), value.items().end());
  }
  return value.Is(Type::kList) ? Value::MakeList(std::move(items))
                               : Value::MakeTuple(std::move(items));
}

int64_t FloorDivide(int64_t a, int64_t b) {
  if (b == 0) Fail("ZeroDivisionError", "integer division or modulo by zero");
  if (b == -1) {
    if (a == std::numeric_limits<int64_t>::min()) Overflow();
    return -a;
  }
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

int64_t FloorModulo(int64_t a, int64_t b) {
  if (b == 0) Fail("ZeroDivisionError", "integer modulo by zero");
  if (b == -1) return 0;
  const int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

Value IntegerPower(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) Fail("ZeroDivisionError", "0.0 cannot be raised to a negative power");
    return std::pow(static_cast<double>(base), static_cast<double>(exponent));
  }
  int64_t result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) Overflow();
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) Overflow();
  }
  return result;
}

Value IntegerArithmetic(const std::string& op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+" && __builtin_add_overflow(a, b, &result)) Overflow();
  if (op == "-" && __builtin_sub_overflow(a, b, &result)) Overflow();
  if (op == "*" && __builtin_mul_overflow(a, b, &result)) Overflow();
  if (op == "/") {
    if (b == 0) Fail("ZeroDivisionError", "division by zero");
    return static_cast<double>(a) / static_cast<double>(b);
  }
  if (op == "//") return FloorDivide(a, b);
  if (op == "%") return FloorModulo(a, b);
  if (op == "**") return IntegerPower(a, b);
  return result;
}

Value FloatArithmetic(const std::string& op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "**") return std::pow(a, b);
  if (b == 0) Fail("ZeroDivisionError", "float division by zero");
  if (op == "/") return a / b;
  if (op == "//") return std::floor(a / b);
  const double rest = std::fmod(a, b);
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

bool EqualEntries(Context& context, const Dict& left, const Dict& right) {
  if (left.size() != right.size()) return false;
  for (const auto& [key, value] : left.entries()) {
    const Value* other = right.Find(key);
    if (other == nullptr || !Equals(context, value, *other)) return false;
  }
  return true;
}

}  // namespace

void Context::Charge(const Value& value) {
  if (value.is_string()) return Charge(value.text().size());
  if (value.is_sequence()) return Charge(value.items().size() * sizeof(Value));
  if (value.Is(Type::kDict)) return Charge(value.dict().size() * 2 * sizeof(Value));
  if (value.Is(Type::kGenerator)) return Charge(value.generator().items.size() * sizeof(Value));
}

void RequireDefined(const Value& value) {
  if (value.is_undefined()) Fail(value.undefined().kind, value.undefined().message);
}

Value Negate(const Value& value) {
  RequireDefined(value);
  if (value.Is(Type::kFloat)) return -value.real();
  if (!value.is_integer()) {
    TypeError(std::string("bad operand type for unary -: '") + value.TypeName() + "'");
  }
  return IntegerArithmetic("-", 0, value.integer());
}

Value Binary(Context& context, const std::string& op, const Value& left, const Value& right) {
  RequireDefined(left);
  RequireDefined(right);
  if (left.is_number() && right.is_number()) {
    const bool integers = left.is_integer() && right.is_integer();
    return integers ? IntegerArithmetic(op, left.integer(), right.integer())
                    : FloatArithmetic(op, left.number(), right.number());
  }
  if (op == "%" && left.is_string()) {
    context.Charge(left);
    return Value(PercentFormat(left.text(), right), left.safe());
  }
  if (op == "+") return Add(context, left, right);
  const auto repeatable = [](const Value& value) {
    return value.is_string() || value.is_sequence();
  };
  if (op == "*" && repeatable(left) && right.is_integer())
    return Repeat(context, left, right.integer());
  if (op == "*" && repeatable(right) && left.is_integer())
    return Repeat(context, right, left.integer());
  Unsupported(op, left, right);
}

bool Equals(Context& context, const Value& left, const Value& right) {
  context.Step();
  if (left.is_number() && right.is_number()) {
    const bool integers = left.is_integer() && right.is_integer();
    return integers ? left.integer() == right.integer() : left.number() == right.number();
  }
  if (left.type() != right.type()) return false;
  switch (left.type()) {
    case Type::kNone:
    case Type::kUndefined:
      return true;
    case Type::kString:
      context.Charge(std::min(left.text().size(), right.text().size()));
      return left.text() == right.text();
    case Type::kList:
    case Type::kTuple: {
      if (left.items().size() != right.items().size()) return false;
      for (size_t i = 0; i < left.items().size(); ++i) {
        if (!Equals(context, left.items()[i], right.items()[i])) return false;
      }
      return true;
    }
    case Type::kDict:
      return EqualEntries(context, left.dict(), right.dict());
    default:
      return left.Identity() == right.Identity();
  }
}

bool Less(Context& context, const Value& left, const Value& right, const char* op) {
  context.Step();
  RequireDefined(left);
  RequireDefined(right);
  if (left.is_number() && right.is_number()) {
    const bool integers = left.is_integer() && right.is_integer();
    return integers ? left.integer() < right.integer() : left.number() < right.number();
  }
  if (left.is_string() && right.is_string()) {
    context.Charge(std::min(left.text().size(), right.text().size()));
    return left.text() < right.text();
  }
  if (left.is_sequence() && left.type() == right.type()) {
    const size_t common = std::min(left.items().size(), right.items().size());
    for (size_t i = 0; i < common; ++i) {
      if (Equals(context, left.items()[i], right.items()[i])) continue;
      return Less(context, left.items()[i], right.items()[i], op);
    }
    return left.items().size() < right.items().size();
  }
  TypeError(std::string("'") + op + "' not supported between instances of '" + left.TypeName() +
            "' and '" + right.TypeName() + "'");
}

bool Contains(Context& context, const Value& container, const Value& item) {
  if (container.is_string()) {
    RequireDefined(item);
    if (!item.is_string()) {
      TypeError(std::string("'in <string>' requires string as left operand, not ") +
                item.TypeName());
    }
    context.Charge(container);
    return container.text().find(item.text()) != std::string::npos;
  }
  if (container.Is(Type::kDict)) return container.dict().Find(item) != nullptr;
  if (container.is_sequence() || container.Is(Type::kGenerator) || container.is_undefined()) {
    for (const Value& one : Iterate(container)) {
      if (Equals(context, one, item)) return true;
    }
    return false;
  }
  TypeError(std::string("argument of type '") + container.TypeName() + "' is not iterable");
}

bool Compare(Context& context, const std::string& op, const Value& left, const Value& right) {
  if (op == "==") return Equals(context, left, right);
  if (op == "!=") return !Equals(context, left, right);
  if (op == "in") return Contains(context, right, left);
  if (op == "not in") return !Contains(context, right, left);
  if (op == "<") return Less(context, left, right);
  if (op == ">") {
    // Python asks the left operand first; only the message shows it.
    if (left.type() == right.type()) return Less(context, right, left, ">");
    if (left.is_number() && right.is_number()) return Less(context, right, left);
    Less(context, left, right, ">");
    return false;
  }
  const bool numbers = left.is_number() && right.is_number();
  if (numbers && (std::isnan(left.number()) || std::isnan(right.number()))) return false;
  if (op == "<=") return Less(context, left, right, "<=") || Equals(context, left, right);
  return !Less(context, left, right, ">=");
}

}  // namespace palu::jinja
