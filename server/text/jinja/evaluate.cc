#include "server/text/jinja/access.h"
#include "server/text/jinja/error.h"
#include "server/text/jinja/filters.h"
#include "server/text/jinja/globals.h"
#include "server/text/jinja/interpreter.h"
#include "server/text/jinja/operators.h"
#include "server/text/jinja/value_text.h"

namespace palu::jinja {

Value Interpreter::Evaluate(const Expr& expr) {
  if (expr.kind == Expr::Kind::kConst) return expr.value;
  const Context::Level level(&context_);
  context_.Step();
  context_.line = expr.line;
  return EvaluateNode(expr);
}

Value Interpreter::EvaluateNode(const Expr& expr) {
  switch (expr.kind) {
    case Expr::Kind::kConst:
      return expr.value;
    case Expr::Kind::kName:
      return Name(expr.name);
    case Expr::Kind::kList:
    case Expr::Kind::kTuple:
    case Expr::Kind::kDict:
      return Literal(expr);
    case Expr::Kind::kAttr:
      return GetAttribute(Evaluate(*expr.args[0]), expr.name);
    case Expr::Kind::kItem: {
      const Value value = Evaluate(*expr.args[0]);
      return GetItem(value, Evaluate(*expr.args[1]));
    }
    case Expr::Kind::kSlice:
      return Slice(expr);
    case Expr::Kind::kCall:
      return CallNode(expr);
    case Expr::Kind::kFilter:
    case Expr::Kind::kTest:
      return FilterNode(expr);
    case Expr::Kind::kUnary:
      return Unary(expr);
    case Expr::Kind::kBinary: {
      const Value left = Evaluate(*expr.args[0]);
      return Binary(context_, expr.name, left, Evaluate(*expr.args[1]));
    }
    case Expr::Kind::kCompare:
      return Comparison(expr);
    case Expr::Kind::kAnd:
    case Expr::Kind::kOr:
    case Expr::Kind::kNot:
    case Expr::Kind::kChoice:
      return Choice(expr);
    case Expr::Kind::kConcat:
      return Concat(expr);
  }
  return {};
}

Value Interpreter::Name(const std::string& name) const {
  if (const Value* value = scope_->Find(name)) return *value;
  if (std::optional<Value> global = FindGlobal(name)) return *global;
  return Value::UndefinedName(name);
}

Value Interpreter::Literal(const Expr& expr) {
  if (expr.kind == Expr::Kind::kDict) {
    Dict dict;
    for (size_t i = 0; i + 1 < expr.args.size(); i += 2) {
      Value key = Evaluate(*expr.args[i]);
      dict.Set(std::move(key), Evaluate(*expr.args[i + 1]));
    }
    return dict;
  }
  std::vector<Value> items;
  items.reserve(expr.args.size());
  for (const ExprPtr& arg : expr.args) items.push_back(Evaluate(*arg));
  return expr.kind == Expr::Kind::kList ? Value::MakeList(std::move(items))
                                        : Value::MakeTuple(std::move(items));
}

Args Interpreter::Arguments(const Expr& expr) {
  Args args;
  for (size_t i = 1; i < expr.args.size(); ++i) args.positional.push_back(Evaluate(*expr.args[i]));
  for (const auto& [name, value_expr] : expr.named) {
    Value value = Evaluate(*value_expr);
    if (name == "*") {
      for (Value& item : Iterate(value)) args.positional.push_back(std::move(item));
    } else if (name == "**") {
      if (!value.Is(Type::kDict)) TypeError("argument after ** must be a mapping");
      for (const auto& [key, item] : value.dict().entries())
        args.named.emplace_back(Str(key), item);
    } else {
      args.named.emplace_back(name, std::move(value));
    }
  }
  return args;
}

Value Interpreter::CallNode(const Expr& expr) {
  const Value callable = Evaluate(*expr.args[0]);
  const Args args = Arguments(expr);
  context_.line = expr.line;
  return Call(context_, callable, args);
}

Value Interpreter::FilterNode(const Expr& expr) {
  const Value value = expr.args[0] != nullptr ? Evaluate(*expr.args[0]) : *filtered_;
  const Args args = Arguments(expr);
  context_.line = expr.line;
  if (expr.kind == Expr::Kind::kTest) return ApplyTest(context_, expr.name, value, args);
  return ApplyFilter(context_, expr.name, value, args);
}

Value Interpreter::Comparison(const Expr& expr) {
  Value left = Evaluate(*expr.args[0]);
  for (size_t i = 0; i < expr.names.size(); ++i) {
    Value right = Evaluate(*expr.args[i + 1]);
    if (!Compare(context_, expr.names[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::Choice(const Expr& expr) {
  if (expr.kind == Expr::Kind::kNot) return !Evaluate(*expr.args[0]).Truth();
  if (expr.kind == Expr::Kind::kChoice) {
    if (Evaluate(*expr.args[1]).Truth()) return Evaluate(*expr.args[0]);
    if (expr.args[2] != nullptr) return Evaluate(*expr.args[2]);
    return Value::MakeUndefined("the inline if-expression on line " + std::to_string(expr.line) +
                                " evaluated to false and no else section was defined.");
  }
  Value value;
  for (const ExprPtr& arg : expr.args) {
    value = Evaluate(*arg);
    if (value.Truth() == (expr.kind == Expr::Kind::kOr)) return value;
  }
  return value;
}

Value Interpreter::Unary(const Expr& expr) {
  Value value = Evaluate(*expr.args[0]);
  if (expr.name == "-") return Negate(value);
  RequireDefined(value);
  if (!value.is_number()) {
    TypeError(std::string("bad operand type for unary +: '") + value.TypeName() + "'");
  }
  return value.Is(Type::kBool) ? Value(value.integer()) : value;
}

Value Interpreter::Concat(const Expr& expr) {
  std::string text;
  for (const ExprPtr& arg : expr.args) {
    text += Str(Evaluate(*arg));
    if (text.size() > kMaxTextBytes) Fail("OverflowError", "a string is too long");
  }
  context_.Charge(text.size());
  return text;
}

Value Interpreter::Slice(const Expr& expr) {
  const Value value = Evaluate(*expr.args[0]);
  Value bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    if (expr.args[i + 1] != nullptr) bounds[i] = Evaluate(*expr.args[i + 1]);
  }
  return GetSlice(context_, value, bounds[0], bounds[1], bounds[2]);
}

}  // namespace palu::jinja
