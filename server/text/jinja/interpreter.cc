#include "server/text/jinja/interpreter.h"

#include <algorithm>

#include "server/text/jinja/access.h"
#include "server/text/jinja/error.h"
#include "server/text/jinja/filters.h"
#include "server/text/jinja/interpreter_guards.h"
#include "server/text/jinja/operators.h"
#include "server/text/jinja/value_text.h"

namespace palu::jinja {

const Value* Scope::Find(const std::string& name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent_) {
    for (const auto& [known, value] : scope->names_) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

void Scope::Set(const std::string& name, Value value) {
  for (auto& [known, old] : names_) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  names_.emplace_back(name, std::move(value));
}

void Scope::Capture() {
  for (Scope* scope = this; scope != nullptr && !scope->captured_; scope = scope->parent_) {
    scope->captured_ = true;
  }
}

std::string Interpreter::Run(const Body& body,
                             const std::vector<std::pair<std::string, Value>>& variables) {
  Capture capture(this);
  // Template names shadow variables without changing them.
  const ScopeGuard globals(this, nullptr);
  for (const auto& [name, value] : variables) scope_->Set(name, value);
  const ScopeGuard names(this, scope_);
  Execute(body);
  return std::move(capture.text);
}

Interpreter::Flow Interpreter::Execute(const Body& body) {
  for (const auto& stmt : body) {
    const Flow flow = Execute(*stmt);
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::Execute(const Stmt& stmt) {
  const Context::Level level(&context_);
  context_.Step();
  context_.line = stmt.line;
  switch (stmt.kind) {
    case Stmt::Kind::kText:
      Print(stmt.text);
      break;
    case Stmt::Kind::kOutput:
      Print(Str(Evaluate(*stmt.expr)));
      break;
    case Stmt::Kind::kFor:
      return For(stmt);
    case Stmt::Kind::kIf:
      return If(stmt);
    case Stmt::Kind::kSet:
      Assign(stmt.target, Evaluate(*stmt.expr));
      break;
    case Stmt::Kind::kSetBlock:
      SetBlock(stmt);
      break;
    case Stmt::Kind::kMacro:
      scope_->Set(stmt.text, MakeMacro(stmt));
      break;
    case Stmt::Kind::kCall:
      CallBlock(stmt);
      break;
    case Stmt::Kind::kFilter:
      FilterBlock(stmt);
      break;
    case Stmt::Kind::kWith:
      return With(stmt);
    case Stmt::Kind::kScope: {
      const ScopeGuard guard(this, scope_);
      return Execute(stmt.bodies[0]);
    }
    case Stmt::Kind::kBreak:
      return Flow::kBreak;
    case Stmt::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

void Interpreter::Print(const std::string& text) {
  context_.Charge(text.size());
  *out_ += text;
  context_.CheckOutput(out_->size());
}

Interpreter::Flow Interpreter::If(const Stmt& stmt) {
  for (size_t i = 0; i < stmt.exprs.size(); ++i) {
    if (Evaluate(*stmt.exprs[i]).Truth()) return Execute(stmt.bodies[i]);
  }
  return stmt.bodies.size() > stmt.exprs.size() ? Execute(stmt.bodies.back()) : Flow::kNormal;
}

Interpreter::Flow Interpreter::For(const Stmt& stmt) {
  return ForOver(stmt, Evaluate(*stmt.expr), 1);
}

std::vector<Value> Interpreter::ItemsOf(const Stmt& stmt, const Value& iterable) {
  context_.Charge(iterable);
  std::vector<Value> items = Iterate(iterable);
  if (stmt.condition == nullptr) return items;
  std::vector<Value> passed;
  for (Value& item : items) {
    const ScopeGuard guard(this, scope_);
    Assign(stmt.target, item);
    if (Evaluate(*stmt.condition).Truth()) passed.push_back(std::move(item));
  }
  return passed;
}

Interpreter::Flow Interpreter::ForOver(const Stmt& stmt, const Value& iterable, int depth) {
  const auto loop = std::make_shared<Loop>();
  loop->items = ItemsOf(stmt, iterable);
  loop->depth = depth;
  Scope* const outer = scope_;
  if (stmt.recursive) {
    loop->recurse = [this, &stmt, outer, depth](const Value& inner) -> Value {
      const Context::Level level(&context_);
      Capture capture(this);
      const ScopeGuard guard(this, outer);
      ForOver(stmt, inner, depth + 1);
      return std::move(capture.text);
    };
  }
  // Whoever keeps the loop variable keeps nothing of the loop.
  const std::shared_ptr<void> release(nullptr, [loop](void*) {
    loop->items.clear();
    loop->last_changed.reset();
    loop->recurse = nullptr;
  });
  for (; loop->index < loop->items.size(); ++loop->index) {
    context_.Step();
    const ScopeGuard guard(this, outer);
    scope_->Set("loop", loop);
    Assign(stmt.target, loop->items[loop->index]);
    if (Execute(stmt.bodies[0]) == Flow::kBreak) break;
  }
  if (!loop->items.empty() || stmt.bodies.size() < 2) return Flow::kNormal;
  const ScopeGuard guard(this, outer);
  return Execute(stmt.bodies[1]);
}

Interpreter::Flow Interpreter::With(const Stmt& stmt) {
  std::vector<Value> values;
  for (const ExprPtr& expr : stmt.exprs) values.push_back(Evaluate(*expr));
  const ScopeGuard guard(this, scope_);
  for (size_t i = 0; i < values.size(); ++i) Assign(stmt.targets[i], values[i]);
  return Execute(stmt.bodies[0]);
}

void Interpreter::SetBlock(const Stmt& stmt) {
  Capture capture(this);
  {
    const ScopeGuard guard(this, scope_);
    Execute(stmt.bodies[0]);
  }
  Value value(std::move(capture.text));
  if (stmt.expr != nullptr) {
    const Value* previous = std::exchange(filtered_, &value);
    Value filtered = Evaluate(*stmt.expr);
    filtered_ = previous;
    value = std::move(filtered);
  }
  Assign(stmt.target, value);
}

void Interpreter::FilterBlock(const Stmt& stmt) {
  Value value;
  {
    Capture capture(this);
    const ScopeGuard guard(this, scope_);
    Execute(stmt.bodies[0]);
    value = Value(std::move(capture.text));
  }
  const Value* previous = std::exchange(filtered_, &value);
  const Value filtered = Evaluate(*stmt.expr);
  filtered_ = previous;
  Print(Str(filtered));
}

void Interpreter::CallBlock(const Stmt& stmt) {
  const Value callable = Evaluate(*stmt.expr->args[0]);
  Args args = Arguments(*stmt.expr);
  args.named.emplace_back("caller", MakeMacro(stmt));
  Print(Str(Call(context_, callable, args)));
}

void Interpreter::Assign(const Target& target, const Value& value) {
  if (!target.attribute.empty()) return AssignAttribute(target, value);
  if (target.parts.empty()) return scope_->Set(target.name, value);
  RequireDefined(value);
  const std::vector<Value> items = Iterate(value);
  if (items.size() != target.parts.size()) {
    const std::string expected = std::to_string(target.parts.size());
    Fail("ValueError", items.size() > target.parts.size()
                           ? "too many values to unpack (expected " + expected + ")"
                           : "not enough values to unpack (expected " + expected + ", got " +
                                 std::to_string(items.size()) + ")");
  }
  for (size_t i = 0; i < items.size(); ++i) Assign(target.parts[i], items[i]);
}

void Interpreter::AssignAttribute(const Target& target, const Value& value) {
  const Value space = Name(target.name);
  if (!space.Is(Type::kNamespace)) {
    Fail("TemplateRuntimeError", "cannot assign attribute on non-namespace object");
  }
  Namespace& names = space.name_space();
  if (names.attributes.insert_or_assign(target.attribute, value).second) {
    names.order.push_back(target.attribute);
  }
}

Value Interpreter::MakeMacro(const Stmt& stmt) {
  scope_->Capture();
  return MakeCallable(stmt.text, [this, &stmt, definition = scope_](Context&, const Args& args) {
    return RunMacro(stmt, definition, args);
  });
}

Value Interpreter::RunMacro(const Stmt& macro, Scope* definition, const Args& args) {
  const Context::Level level(&context_);
  const int line = context_.line;
  Capture capture(this);
  const ScopeGuard guard(this, definition);
  BindParams(macro, args);
  Execute(macro.bodies[0]);
  context_.line = line;
  return std::move(capture.text);
}

// Arguments that are no parameters go where the body looks for them, or are errors.
void Interpreter::BindRest(const Stmt& macro, const Args& args) {
  Dict rest;
  Value caller = Value::MakeUndefined("No caller defined");
  for (const auto& [key, value] : args.named) {
    const bool known =
        std::any_of(macro.params.begin(), macro.params.end(),
                    [&key = key](const Stmt::Param& param) { return param.name == key; });
    if (known) continue;
    if (key == "caller" && macro.takes_caller) {
      caller = value;
    } else if (macro.takes_kwargs) {
      rest.Set(key, value);
    } else if (key == "caller") {
      TypeError("macro '" + macro.text +
                "' was invoked with two values for the special caller argument. This is most "
                "likely a bug.");
    } else {
      TypeError("macro '" + macro.text + "' takes no keyword argument " + Repr(Value(key)));
    }
  }
  std::vector<Value> more;
  for (size_t i = macro.params.size(); i < args.positional.size(); ++i) {
    more.push_back(args.positional[i]);
  }
  if (!more.empty() && !macro.takes_varargs) {
    TypeError("macro '" + macro.text + "' takes not more than " +
              std::to_string(macro.params.size()) + " argument(s)");
  }
  if (macro.takes_caller) scope_->Set("caller", std::move(caller));
  if (macro.takes_kwargs) scope_->Set("kwargs", rest);
  if (macro.takes_varargs) scope_->Set("varargs", Value::MakeTuple(std::move(more)));
}

void Interpreter::BindParams(const Stmt& macro, const Args& args) {
  BindRest(macro, args);
  for (size_t i = 0; i < macro.params.size(); ++i) {
    const Stmt::Param& param = macro.params[i];
    if (const Value* given = args.Find(i, param.name)) {
      scope_->Set(param.name, *given);
    } else if (param.fallback != nullptr) {
      scope_->Set(param.name, Evaluate(*param.fallback));
    } else {
      scope_->Set(param.name, Value::MakeUndefined("parameter " + Repr(Value(param.name)) +
                                                   " was not provided"));
    }
  }
}

}  // namespace palu::jinja
