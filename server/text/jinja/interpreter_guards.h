// Scopes and output buffers that end with a C++ block.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "server/text/jinja/interpreter.h"

namespace palu::jinja {

class Interpreter::ScopeGuard {
 public:
  ScopeGuard(Interpreter* interpreter, Scope* parent)
      : interpreter_(*interpreter),
        previous_(interpreter->scope_),
        scope_(std::make_unique<Scope>(parent)) {
    interpreter_.scope_ = scope_.get();
  }
  ~ScopeGuard() {
    interpreter_.scope_ = previous_;
    if (scope_->captured()) interpreter_.captured_.push_back(std::move(scope_));
  }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;

 private:
  Interpreter& interpreter_;
  Scope* previous_;
  std::unique_ptr<Scope> scope_;
};

class Interpreter::Capture {
 public:
  explicit Capture(Interpreter* interpreter)
      : interpreter_(*interpreter), previous_(interpreter->out_) {
    interpreter_.out_ = &text;
  }
  ~Capture() { interpreter_.out_ = previous_; }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  std::string text;

 private:
  Interpreter& interpreter_;
  std::string* previous_;
};

}  // namespace palu::jinja
