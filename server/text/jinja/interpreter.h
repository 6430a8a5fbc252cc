// Runs a parsed template on its variables.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/text/jinja/ast.h"
#include "server/text/jinja/context.h"
#include "server/text/jinja/loop.h"

namespace palu::jinja {

// Names of one block; looks further in the block around it. Owned by the interpreter.
class Scope {
 public:
  explicit Scope(Scope* parent) : parent_(parent) {}

  const Value* Find(const std::string& name) const;
  void Set(const std::string& name, Value value);
  // A macro may look in here after the block has ended.
  void Capture();
  bool captured() const { return captured_; }

 private:
  Scope* parent_;
  bool captured_ = false;
  std::vector<std::pair<std::string, Value>> names_;
};

// One rendering. Throws Error. Used on the stack, by one thread.
class Interpreter {
 public:
  explicit Interpreter(Context* context) : context_(*context) {}

  std::string Run(const Body& body, const std::vector<std::pair<std::string, Value>>& variables);

 private:
  enum class Flow { kNormal, kBreak, kContinue };
  // The scope of a block, from here to the end of the C++ block.
  class ScopeGuard;
  // Output goes into a text of its own meanwhile.
  class Capture;

  Flow Execute(const Body& body);
  Flow Execute(const Stmt& stmt);
  Flow For(const Stmt& stmt);
  Flow ForOver(const Stmt& stmt, const Value& iterable, int depth);
  std::vector<Value> ItemsOf(const Stmt& stmt, const Value& iterable);
  Flow If(const Stmt& stmt);
  Flow With(const Stmt& stmt);
  void SetBlock(const Stmt& stmt);
  void FilterBlock(const Stmt& stmt);
  void CallBlock(const Stmt& stmt);
  void Assign(const Target& target, const Value& value);
  void AssignAttribute(const Target& target, const Value& value);
  void Print(const std::string& text);
  Value MakeMacro(const Stmt& stmt);
  Value RunMacro(const Stmt& macro, Scope* definition, const Args& args);
  void BindParams(const Stmt& macro, const Args& args);
  void BindRest(const Stmt& macro, const Args& args);

  Value Evaluate(const Expr& expr);
  Value EvaluateNode(const Expr& expr);
  Value Name(const std::string& name) const;
  Value Literal(const Expr& expr);
  Value CallNode(const Expr& expr);
  Value FilterNode(const Expr& expr);
  Value Comparison(const Expr& expr);
  Value Choice(const Expr& expr);
  Value Unary(const Expr& expr);
  Value Concat(const Expr& expr);
  Value Slice(const Expr& expr);
  Args Arguments(const Expr& expr);

  Context& context_;
  Scope* scope_ = nullptr;
  std::string* out_ = nullptr;
  const Value* filtered_ = nullptr;  // what a filter over an empty name works on
  std::vector<std::unique_ptr<Scope>> captured_;
};

}  // namespace palu::jinja
