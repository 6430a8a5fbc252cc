// A parsed template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/text/jinja/value.h"

namespace palu::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<const Expr>;
using Body = std::vector<std::unique_ptr<const Stmt>>;

// Bounds the recursion of everything that walks a tree.
inline constexpr int kMaxTreeDepth = 400;

struct Expr {
  enum class Kind {
    kConst,    // value
    kName,     // name
    kList,     // args
    kTuple,    // args
    kDict,     // args: key, value, key, value …
    kAttr,     // args[0].name
    kItem,     // args[0][args[1]]
    kSlice,    // args[0][args[1]:args[2]:args[3]], parts may be null
    kCall,     // args[0](args[1…], named)
    kFilter,   // args[0] | name(args[1…], named)
    kTest,     // args[0] is name(args[1…])
    kUnary,    // name: + or -
    kBinary,   // name: + - * / // % **
    kCompare,  // args[0] names[0] args[1] names[1] args[2] …
    kAnd,      // args
    kOr,       // args
    kNot,      // args[0]
    kConcat,   // args
    kChoice,   // args[0] if args[1] else args[2], which may be null
  };

  Kind kind;
  int line;
  int depth = 1;
  std::string name;
  Value value;
  std::vector<ExprPtr> args;
  std::vector<std::pair<std::string, ExprPtr>> named;
  std::vector<std::string> names;
};

// What set and for assign to: a name, an attribute of a namespace, or several of these.
struct Target {
  std::string name;
  std::string attribute;  // of the namespace `name`; empty: the name itself
  std::vector<Target> parts;
};

struct Stmt {
  enum class Kind {
    kText,      // text
    kOutput,    // expr
    kFor,       // target in expr if condition: bodies[0], else bodies[1]
    kIf,        // exprs[i]: bodies[i]; one body more: else
    kSet,       // target = expr
    kSetBlock,  // target = bodies[0], through filters (expr, over an empty name)
    kMacro,     // name(params): bodies[0]
    kCall,      // call(params) expr: bodies[0]
    kFilter,    // expr (filters over an empty name): bodies[0]
    kWith,      // targets[i] = exprs[i]: bodies[0]
    kScope,     // bodies[0], with its own names (generation)
    kBreak,
    kContinue,
  };
  struct Param {
    std::string name;
    ExprPtr fallback;  // null: none
  };

  Kind kind;
  int line;
  std::string text;  // or a macro's name
  Target target;
  ExprPtr expr;
  ExprPtr condition;
  bool recursive = false;
  // What a macro's body refers to, and so takes.
  bool takes_varargs = false;
  bool takes_kwargs = false;
  bool takes_caller = false;
  std::vector<ExprPtr> exprs;
  std::vector<Target> targets;
  std::vector<Param> params;
  std::vector<Body> bodies;
};

// Throws Error (TemplateSyntaxError).
Body ParseTemplate(std::string_view source);

}  // namespace palu::jinja
