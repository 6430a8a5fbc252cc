// Expressions of templates.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/text/jinja/ast.h"
#include "server/text/jinja/token_stream.h"

namespace palu::jinja {

// Reads expressions with Jinja's grammar and precedence. One template, one thread.
class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream* tokens) : tokens_(*tokens) {}

  ExprPtr Expression(bool with_choice = true);
  // One expression, or several with commas between them: a tuple.
  ExprPtr Tuple(bool with_choice = true, bool parenthesized = false);
  // filter(args) | filter … over an empty name; first: the stream stands at a filter's name.
  ExprPtr Filters(ExprPtr over, bool first);
  // A name, namespace.attribute, or several of them.
  Target AssignTarget(bool with_tuple);

  // Special names of macros seen so far.
  struct SeenNames {
    bool varargs = false;
    bool kwargs = false;
    bool caller = false;
  };
  SeenNames seen;

 private:
  using Level = ExprPtr (ExpressionParser::*)();

  ExprPtr Choice();
  ExprPtr Or();
  ExprPtr And();
  ExprPtr Not();
  ExprPtr Compare();
  ExprPtr Sum();
  ExprPtr Concat();
  ExprPtr Product();
  ExprPtr Power();
  ExprPtr Unary(bool with_filter = true);
  ExprPtr Primary();
  ExprPtr NameOrConstant();
  ExprPtr ListLiteral();
  ExprPtr DictLiteral();
  ExprPtr Postfix(ExprPtr operand);
  ExprPtr FilterExpression(ExprPtr operand);
  ExprPtr Subscript(ExprPtr operand);
  ExprPtr Call(ExprPtr operand);
  ExprPtr Test(ExprPtr operand);
  void Arguments(Expr* call);
  ExprPtr BinaryChain(std::initializer_list<std::string_view> operators, Level level);
  ExprPtr LogicChain(std::string_view name, Expr::Kind kind, Level level);
  bool IsTupleEnd() const;
  Target TargetPart();

  std::unique_ptr<Expr> Make(Expr::Kind kind, int line) const;
  // Checks the depth of the finished node.
  ExprPtr Done(std::unique_ptr<Expr> expr) const;

  TokenStream& tokens_;
  int depth_ = 0;
};

}  // namespace palu::jinja
