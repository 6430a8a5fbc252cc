#include <initializer_list>
#include <string>
#include <utility>

#include "server/text/jinja/ast.h"
#include "server/text/jinja/expression_parser.h"
#include "server/text/jinja/token_stream.h"

namespace palu::jinja {
namespace {

// Statements of one template. Used on the stack, by one thread.
class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(Tokenize(source)), expressions_(&tokens_) {}

  Body Run() { return Statements({}); }

 private:
  using StmtPtr = std::unique_ptr<const Stmt>;
  using Names = std::initializer_list<std::string_view>;

  // Statements up to a tag of one of these names, which is consumed; its name is left in end_.
  Body Statements(Names ends) {
    if (++depth_ > kMaxNesting) tokens_.SyntaxError("statements nest too deeply");
    Body body;
    for (;;) {
      if (tokens_.Is(TokenKind::kText)) {
        auto text = Make(Stmt::Kind::kText);
        text->text = tokens_.Next().text;
        body.push_back(std::move(text));
      } else if (tokens_.Is(TokenKind::kVariableBegin)) {
        tokens_.Next();
        auto output = Make(Stmt::Kind::kOutput);
        output->expr = expressions_.Tuple();
        tokens_.Expect(TokenKind::kVariableEnd, "'}}'");
        body.push_back(std::move(output));
      } else if (tokens_.Is(TokenKind::kBlockBegin)) {
        tokens_.Next();
        if (AtEnd(ends)) break;
        body.push_back(Statement());
        tokens_.Expect(TokenKind::kBlockEnd, "'%}'");
      } else if (ends.size() > 0) {
        tokens_.Unexpected("'{% " + std::string(*(ends.end() - 1)) + " %}'");
      } else {
        break;
      }
    }
    --depth_;
    return body;
  }

  bool AtEnd(Names ends) {
    for (const std::string_view name : ends) {
      if (!tokens_.SkipName(name)) continue;
      end_ = name;
      return true;
    }
    return false;
  }

  std::unique_ptr<Stmt> Make(Stmt::Kind kind) const {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = tokens_.current().line;
    return stmt;
  }

  // A body that begins behind this tag and ends with one of the names.
  Body Block(Names ends) {
    tokens_.Expect(TokenKind::kBlockEnd, "'%}'");
    return Statements(ends);
  }

  StmtPtr Statement() {
    const std::string name = tokens_.Expect(TokenKind::kName, "a tag's name").text;
    if (name == "for") return For();
    if (name == "if") return If();
    if (name == "set") return Set();
    if (name == "macro") return Macro();
    if (name == "call") return Call();
    if (name == "filter") return Filter();
    if (name == "with") return With();
    if (name == "break") return Make(Stmt::Kind::kBreak);
    if (name == "continue") return Make(Stmt::Kind::kContinue);
    if (name == "generation") {
      auto scope = Make(Stmt::Kind::kScope);
      scope->bodies.push_back(Block({"endgeneration"}));
      return scope;
    }
    tokens_.SyntaxError("Encountered unknown tag '" + name + "'.");
  }

  StmtPtr For() {
    auto loop = Make(Stmt::Kind::kFor);
    loop->target = expressions_.AssignTarget(/*with_tuple=*/true);
    if (!tokens_.SkipName("in")) tokens_.Unexpected("'in'");
    loop->expr = expressions_.Tuple(/*with_choice=*/false);
    if (tokens_.SkipName("if")) loop->condition = expressions_.Expression();
    loop->recursive = tokens_.SkipName("recursive");
    loop->bodies.push_back(Block({"else", "endfor"}));
    if (end_ == "else") loop->bodies.push_back(Block({"endfor"}));
    return loop;
  }

  StmtPtr If() {
    auto branch = Make(Stmt::Kind::kIf);
    do {
      branch->exprs.push_back(expressions_.Tuple(/*with_choice=*/false));
      branch->bodies.push_back(Block({"elif", "else", "endif"}));
    } while (end_ == "elif");
    if (end_ == "else") branch->bodies.push_back(Block({"endif"}));
    return branch;
  }

  StmtPtr Set() {
    auto set = Make(Stmt::Kind::kSet);
    set->target = expressions_.AssignTarget(/*with_tuple=*/true);
    if (tokens_.SkipOperator("=")) {
      set->expr = expressions_.Tuple();
      return set;
    }
    set->kind = Stmt::Kind::kSetBlock;
    set->expr = expressions_.Filters(nullptr, /*first=*/false);
    set->bodies.push_back(Block({"endset"}));
    return set;
  }

  void Signature(Stmt* macro) {
    tokens_.ExpectOperator("(");
    while (!tokens_.IsOperator(")")) {
      if (!macro->params.empty()) tokens_.ExpectOperator(",");
      Stmt::Param param;
      param.name = tokens_.Expect(TokenKind::kName, "a parameter's name").text;
      if (tokens_.SkipOperator("=")) {
        param.fallback = expressions_.Expression();
      } else if (!macro->params.empty() && macro->params.back().fallback != nullptr) {
        tokens_.SyntaxError("non-default argument follows default argument");
      }
      macro->params.push_back(std::move(param));
    }
    tokens_.ExpectOperator(")");
  }

  void MacroBody(Stmt* macro, std::string_view end) {
    const ExpressionParser::SeenNames outside = std::exchange(expressions_.seen, {});
    macro->bodies.push_back(Block({end}));
    ExpressionParser::SeenNames& seen = expressions_.seen;
    macro->takes_varargs = seen.varargs;
    macro->takes_kwargs = seen.kwargs;
    macro->takes_caller = seen.caller;
    seen.varargs = seen.varargs || outside.varargs;
    seen.kwargs = seen.kwargs || outside.kwargs;
    seen.caller = seen.caller || outside.caller;
  }

  StmtPtr Macro() {
    auto macro = Make(Stmt::Kind::kMacro);
    macro->text = tokens_.Expect(TokenKind::kName, "a macro's name").text;
    Signature(macro.get());
    MacroBody(macro.get(), "endmacro");
    return macro;
  }

  StmtPtr Call() {
    auto call = Make(Stmt::Kind::kCall);
    call->text = "caller";
    if (tokens_.IsOperator("(")) Signature(call.get());
    call->expr = expressions_.Expression();
    if (call->expr->kind != Expr::Kind::kCall) tokens_.SyntaxError("expected call");
    MacroBody(call.get(), "endcall");
    return call;
  }

  StmtPtr Filter() {
    auto filter = Make(Stmt::Kind::kFilter);
    filter->expr = expressions_.Filters(nullptr, /*first=*/true);
    filter->bodies.push_back(Block({"endfilter"}));
    return filter;
  }

  StmtPtr With() {
    auto with = Make(Stmt::Kind::kWith);
    while (!tokens_.Is(TokenKind::kBlockEnd)) {
      if (!with->targets.empty()) tokens_.ExpectOperator(",");
      with->targets.push_back(expressions_.AssignTarget(/*with_tuple=*/false));
      tokens_.ExpectOperator("=");
      with->exprs.push_back(expressions_.Expression());
    }
    with->bodies.push_back(Block({"endwith"}));
    return with;
  }

  static constexpr int kMaxNesting = 100;

  TokenStream tokens_;
  ExpressionParser expressions_;
  std::string_view end_;
  int depth_ = 0;
};

}  // namespace

Body ParseTemplate(std::string_view source) { return Parser(source).Run(); }

}  // namespace palu::jinja
