#include "server/text/jinja/expression_parser.h"

#include <algorithm>
#include <array>

namespace palu::jinja {
namespace {

constexpr int kMaxParseDepth = 150;

// Bounds the recursion of the parser itself.
class DepthGuard {
 public:
  DepthGuard(int* depth, const TokenStream& tokens) : depth_(*depth) {
    if (++depth_ > kMaxParseDepth) tokens.SyntaxError("expression nests too deeply");
  }
  ~DepthGuard() { --depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  int& depth_;
};

}  // namespace

std::unique_ptr<Expr> ExpressionParser::Make(Expr::Kind kind, int line) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  return expr;
}

ExprPtr ExpressionParser::Done(std::unique_ptr<Expr> expr) const {
  for (const ExprPtr& arg : expr->args) {
    if (arg != nullptr) expr->depth = std::max(expr->depth, arg->depth + 1);
  }
  for (const auto& [name, arg] : expr->named) expr->depth = std::max(expr->depth, arg->depth + 1);
  if (expr->depth > kMaxTreeDepth) tokens_.SyntaxError("expression nests too deeply");
  return expr;
}

ExprPtr ExpressionParser::Expression(bool with_choice) { return with_choice ? Choice() : Or(); }

ExprPtr ExpressionParser::Choice() {
  const DepthGuard guard(&depth_, tokens_);
  ExprPtr left = Or();
  while (tokens_.IsName("if")) {
    auto choice = Make(Expr::Kind::kChoice, tokens_.Next().line);
    choice->args.push_back(std::move(left));
    choice->args.push_back(Or());
    choice->args.push_back(tokens_.SkipName("else") ? Choice() : nullptr);
    left = Done(std::move(choice));
  }
  return left;
}

ExprPtr ExpressionParser::LogicChain(std::string_view name, Expr::Kind kind, Level level) {
  ExprPtr first = (this->*level)();
  if (!tokens_.IsName(name)) return first;
  auto chain = Make(kind, tokens_.current().line);
  chain->args.push_back(std::move(first));
  while (tokens_.SkipName(name)) chain->args.push_back((this->*level)());
  return Done(std::move(chain));
}

ExprPtr ExpressionParser::Or() { return LogicChain("or", Expr::Kind::kOr, &ExpressionParser::And); }
ExprPtr ExpressionParser::And() {
  return LogicChain("and", Expr::Kind::kAnd, &ExpressionParser::Not);
}

ExprPtr ExpressionParser::Not() {
  if (!tokens_.IsName("not")) return Compare();
  const DepthGuard guard(&depth_, tokens_);
  auto expr = Make(Expr::Kind::kNot, tokens_.Next().line);
  expr->args.push_back(Not());
  return Done(std::move(expr));
}

ExprPtr ExpressionParser::Compare() {
  static constexpr std::array<std::string_view, 6> kOperators = {"==", "!=", "<", "<=", ">", ">="};
  auto compare = Make(Expr::Kind::kCompare, tokens_.current().line);
  compare->args.push_back(Sum());
  for (;;) {
    const Token& token = tokens_.current();
    const bool symbol =
        token.kind == TokenKind::kOperator &&
        std::find(kOperators.begin(), kOperators.end(), token.text) != kOperators.end();
    if (symbol) {
      compare->names.push_back(tokens_.Next().text);
    } else if (tokens_.SkipName("in")) {
      compare->names.push_back("in");
    } else if (tokens_.IsName("not") && tokens_.Look().kind == TokenKind::kName &&
               tokens_.Look().text == "in") {
      tokens_.Next();
      tokens_.Next();
      compare->names.push_back("not in");
    } else {
      break;
    }
    compare->args.push_back(Sum());
  }
  if (compare->names.empty()) return std::move(compare->args[0]);
  return Done(std::move(compare));
}

ExprPtr ExpressionParser::BinaryChain(std::initializer_list<std::string_view> operators,
                                      Level level) {
  ExprPtr left = (this->*level)();
  while (tokens_.Is(TokenKind::kOperator) &&
         std::find(operators.begin(), operators.end(), tokens_.current().text) != operators.end()) {
    auto binary = Make(Expr::Kind::kBinary, tokens_.current().line);
    binary->name = tokens_.Next().text;
    binary->args.push_back(std::move(left));
    binary->args.push_back((this->*level)());
    left = Done(std::move(binary));
  }
  return left;
}

ExprPtr ExpressionParser::Sum() { return BinaryChain({"+", "-"}, &ExpressionParser::Concat); }

ExprPtr ExpressionParser::Concat() {
  ExprPtr first = Product();
  if (!tokens_.IsOperator("~")) return first;
  auto concat = Make(Expr::Kind::kConcat, tokens_.current().line);
  concat->args.push_back(std::move(first));
  while (tokens_.SkipOperator("~")) concat->args.push_back(Product());
  return Done(std::move(concat));
}

ExprPtr ExpressionParser::Product() {
  return BinaryChain({"*", "/", "//", "%"}, &ExpressionParser::Power);
}

ExprPtr ExpressionParser::Power() {
  ExprPtr left = Unary();
  while (tokens_.IsOperator("**")) {
    auto power = Make(Expr::Kind::kBinary, tokens_.current().line);
    power->name = tokens_.Next().text;
    power->args.push_back(std::move(left));
    power->args.push_back(Unary());
    left = Done(std::move(power));
  }
  return left;
}

ExprPtr ExpressionParser::Unary(bool with_filter) {
  const DepthGuard guard(&depth_, tokens_);
  ExprPtr operand;
  if (tokens_.IsOperator("-") || tokens_.IsOperator("+")) {
    auto unary = Make(Expr::Kind::kUnary, tokens_.current().line);
    unary->name = tokens_.Next().text;
    unary->args.push_back(Unary(false));
    operand = Done(std::move(unary));
  } else {
    operand = Primary();
  }
  operand = Postfix(std::move(operand));
  return with_filter ? FilterExpression(std::move(operand)) : std::move(operand);
}

ExprPtr ExpressionParser::NameOrConstant() {
  const Token token = tokens_.Next();
  auto expr = Make(Expr::Kind::kConst, token.line);
  if (token.text == "true" || token.text == "True") {
    expr->value = true;
  } else if (token.text == "false" || token.text == "False") {
    expr->value = false;
  } else if (token.text != "none" && token.text != "None") {
    expr->kind = Expr::Kind::kName;
    expr->name = token.text;
    seen.varargs = seen.varargs || token.text == "varargs";
    seen.kwargs = seen.kwargs || token.text == "kwargs";
    seen.caller = seen.caller || token.text == "caller";
  }
  return expr;
}

ExprPtr ExpressionParser::Primary() {
  const Token& token = tokens_.current();
  if (token.kind == TokenKind::kName) return NameOrConstant();
  if (tokens_.IsOperator("[")) return ListLiteral();
  if (tokens_.IsOperator("{")) return DictLiteral();
  if (tokens_.SkipOperator("(")) {
    ExprPtr inner = Tuple(/*with_choice=*/true, /*parenthesized=*/true);
    tokens_.ExpectOperator(")");
    return inner;
  }
  auto constant = Make(Expr::Kind::kConst, token.line);
  if (token.kind == TokenKind::kString) {
    std::string text;
    while (tokens_.Is(TokenKind::kString)) text += tokens_.Next().text;
    constant->value = Value(std::move(text));
  } else if (token.kind == TokenKind::kInteger) {
    constant->value = tokens_.Next().integer;
  } else if (token.kind == TokenKind::kFloat) {
    constant->value = tokens_.Next().real;
  } else {
    tokens_.Unexpected("an expression");
  }
  return constant;
}

bool ExpressionParser::IsTupleEnd() const {
  return tokens_.Is(TokenKind::kVariableEnd) || tokens_.Is(TokenKind::kBlockEnd) ||
         tokens_.IsOperator(")");
}

ExprPtr ExpressionParser::Tuple(bool with_choice, bool parenthesized) {
  auto tuple = Make(Expr::Kind::kTuple, tokens_.current().line);
  bool is_tuple = false;
  while (!IsTupleEnd()) {
    tuple->args.push_back(Expression(with_choice));
    if (!tokens_.SkipOperator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !tuple->args.empty()) return std::move(tuple->args[0]);
  if (!is_tuple && !parenthesized) tokens_.Unexpected("an expression");
  return Done(std::move(tuple));
}

ExprPtr ExpressionParser::ListLiteral() {
  auto list = Make(Expr::Kind::kList, tokens_.Next().line);
  while (!tokens_.IsOperator("]")) {
    if (!list->args.empty()) tokens_.ExpectOperator(",");
    if (tokens_.IsOperator("]")) break;
    list->args.push_back(Expression());
  }
  tokens_.ExpectOperator("]");
  return Done(std::move(list));
}

ExprPtr ExpressionParser::DictLiteral() {
  auto dict = Make(Expr::Kind::kDict, tokens_.Next().line);
  while (!tokens_.IsOperator("}")) {
    if (!dict->args.empty()) tokens_.ExpectOperator(",");
    if (tokens_.IsOperator("}")) break;
    dict->args.push_back(Expression());
    tokens_.ExpectOperator(":");
    dict->args.push_back(Expression());
  }
  tokens_.ExpectOperator("}");
  return Done(std::move(dict));
}

ExprPtr ExpressionParser::Postfix(ExprPtr operand) {
  for (;;) {
    if (tokens_.IsOperator(".") || tokens_.IsOperator("[")) {
      operand = Subscript(std::move(operand));
    } else if (tokens_.IsOperator("(")) {
      operand = Call(std::move(operand));
    } else {
      return operand;
    }
  }
}

ExprPtr ExpressionParser::FilterExpression(ExprPtr operand) {
  for (;;) {
    if (tokens_.IsOperator("|")) {
      operand = Filters(std::move(operand), /*first=*/false);
    } else if (tokens_.IsName("is")) {
      operand = Test(std::move(operand));
    } else if (tokens_.IsOperator("(")) {
      operand = Call(std::move(operand));
    } else {
      return operand;
    }
  }
}

ExprPtr ExpressionParser::Subscript(ExprPtr operand) {
  auto item = Make(Expr::Kind::kItem, tokens_.current().line);
  item->args.push_back(std::move(operand));
  if (tokens_.SkipOperator(".")) {
    if (tokens_.Is(TokenKind::kInteger)) {
      item->args.push_back(Primary());
    } else {
      item->kind = Expr::Kind::kAttr;
      item->name = tokens_.Expect(TokenKind::kName, "a name or number").text;
    }
    return Done(std::move(item));
  }
  tokens_.ExpectOperator("[");
  if (!tokens_.IsOperator(":")) item->args.push_back(Expression());
  if (tokens_.IsOperator(":")) {
    item->kind = Expr::Kind::kSlice;
    item->args.resize(2);
    while (item->args.size() < 4 && tokens_.SkipOperator(":")) {
      const bool given = !tokens_.IsOperator(":") && !tokens_.IsOperator("]");
      item->args.push_back(given ? Expression() : nullptr);
    }
    item->args.resize(4);
  } else if (tokens_.IsOperator(",")) {
    auto key = Make(Expr::Kind::kTuple, tokens_.current().line);
    key->args.push_back(std::move(item->args[1]));
    while (tokens_.SkipOperator(",")) key->args.push_back(Expression());
    item->args[1] = Done(std::move(key));
  }
  tokens_.ExpectOperator("]");
  return Done(std::move(item));
}

ExprPtr ExpressionParser::Call(ExprPtr operand) {
  auto call = Make(Expr::Kind::kCall, tokens_.current().line);
  call->args.push_back(std::move(operand));
  Arguments(call.get());
  return Done(std::move(call));
}

// *values and **values stand among the named ones, under these names.
void ExpressionParser::Arguments(Expr* call) {
  tokens_.ExpectOperator("(");
  while (!tokens_.IsOperator(")")) {
    if (tokens_.IsOperator("*") || tokens_.IsOperator("**")) {
      std::string star = tokens_.Next().text;
      call->named.emplace_back(std::move(star), Expression());
    } else if (tokens_.Is(TokenKind::kName) && tokens_.Look().kind == TokenKind::kOperator &&
               tokens_.Look().text == "=") {
      std::string name = tokens_.Next().text;
      tokens_.Next();
      call->named.emplace_back(std::move(name), Expression());
    } else {
      if (!call->named.empty()) tokens_.SyntaxError("invalid syntax for function call expression");
      call->args.push_back(Expression());
    }
    if (!tokens_.SkipOperator(",")) break;
  }
  tokens_.ExpectOperator(")");
}

ExprPtr ExpressionParser::Filters(ExprPtr over, bool first) {
  while (first || tokens_.SkipOperator("|")) {
    first = false;
    auto filter = Make(Expr::Kind::kFilter, tokens_.current().line);
    filter->name = tokens_.Expect(TokenKind::kName, "a filter's name").text;
    filter->args.push_back(std::move(over));
    if (tokens_.IsOperator("(")) Arguments(filter.get());
    over = Done(std::move(filter));
  }
  return over;
}

ExprPtr ExpressionParser::Test(ExprPtr operand) {
  const int line = tokens_.Next().line;
  const bool negated = tokens_.SkipName("not");
  auto test = Make(Expr::Kind::kTest, line);
  test->name = tokens_.Expect(TokenKind::kName, "a test's name").text;
  test->args.push_back(std::move(operand));
  const Token& token = tokens_.current();
  const bool bracket = tokens_.IsOperator("[") || tokens_.IsOperator("{");
  const bool operand_follows =
      token.kind == TokenKind::kString || token.kind == TokenKind::kInteger ||
      token.kind == TokenKind::kFloat || token.kind == TokenKind::kName || bracket;
  if (tokens_.IsOperator("(")) {
    Arguments(test.get());
  } else if (operand_follows && !tokens_.IsName("else") && !tokens_.IsName("or") &&
             !tokens_.IsName("and")) {
    if (tokens_.IsName("is")) tokens_.SyntaxError("You cannot chain multiple tests with is");
    test->args.push_back(Postfix(Primary()));
  }
  if (!negated) return Done(std::move(test));
  auto inverse = Make(Expr::Kind::kNot, line);
  inverse->args.push_back(Done(std::move(test)));
  return Done(std::move(inverse));
}

Target ExpressionParser::TargetPart() {
  const DepthGuard guard(&depth_, tokens_);
  if (tokens_.SkipOperator("(")) {
    Target target = AssignTarget(/*with_tuple=*/true);
    tokens_.ExpectOperator(")");
    return target;
  }
  static constexpr std::array<std::string_view, 6> kConstants = {"true", "false", "none",
                                                                 "True", "False", "None"};
  Target target;
  target.name = tokens_.Expect(TokenKind::kName, "a name to assign to").text;
  if (std::find(kConstants.begin(), kConstants.end(), target.name) != kConstants.end()) {
    tokens_.SyntaxError("can't assign to '" + target.name + "'");
  }
  if (tokens_.SkipOperator(".")) target.attribute = tokens_.Expect(TokenKind::kName, "a name").text;
  return target;
}

Target ExpressionParser::AssignTarget(bool with_tuple) {
  Target first = TargetPart();
  if (!with_tuple || !tokens_.IsOperator(",")) return first;
  Target target;
  target.parts.push_back(std::move(first));
  while (tokens_.SkipOperator(",")) {
    if (!tokens_.Is(TokenKind::kName) && !tokens_.IsOperator("(")) break;
    if (tokens_.IsName("in")) break;
    target.parts.push_back(TargetPart());
  }
  return target;
}

}  // namespace palu::jinja
