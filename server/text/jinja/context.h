// What one rendering may use up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <vector>

#include "server/text/jinja/error.h"
#include "server/text/jinja/value.h"

namespace palu::jinja {

struct Limits {
  int64_t max_steps = 10'000'000;        // expressions and statements
  int64_t max_work_bytes = 256LL << 20;  // text and items looked at or made
  size_t max_output_bytes = 16u << 20;   // of the whole text
  int max_depth = 800;                   // of expressions, statements and macro calls
};

// Counters of one rendering. Used by one thread.
class Context {
 public:
  Context(const Limits& limits, std::time_t now) : limits_(limits), now_(now) {}
  ~Context() {
    for (const auto& space : namespaces_) space->attributes.clear();
  }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Namespaces can hold themselves and each other, in chains of any length: kept to the end and
  // emptied one by one.
  std::shared_ptr<Namespace> NewNamespace() {
    namespaces_.push_back(std::make_shared<Namespace>());
    Charge(sizeof(Namespace));
    return namespaces_.back();
  }

  void Step() {
    if (++steps_ > limits_.max_steps) Fail("ResourceError", "the template takes too many steps");
  }
  void Charge(size_t bytes) {
    work_bytes_ += static_cast<int64_t>(bytes);
    if (work_bytes_ > limits_.max_work_bytes)
      Fail("ResourceError", "the template handles too much data");
  }
  // What walking the value once costs.
  void Charge(const Value& value);
  void CheckOutput(size_t bytes) const {
    if (bytes > limits_.max_output_bytes)
      Fail("ResourceError", "the template's output is too long");
  }
  std::time_t now() const { return now_; }

  int line = 0;  // being evaluated

  // One level of recursion.
  class Level {
   public:
    explicit Level(Context* context) : context_(*context) {
      if (++context_.depth_ > context_.limits_.max_depth) {
        Fail("RecursionError", "maximum recursion depth exceeded");
      }
    }
    ~Level() { --context_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Context& context_;
  };

 private:
  Limits limits_;
  std::time_t now_;
  int64_t steps_ = 0;
  int64_t work_bytes_ = 0;
  int depth_ = 0;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

}  // namespace palu::jinja
