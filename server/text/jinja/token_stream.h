// A template's tokens, read one after another.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/text/jinja/error.h"
#include "server/text/jinja/lexer.h"

namespace palu::jinja {

// Used by the two parsers of one template, on one thread.
class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[pos_]; }
  const Token& Look() const { return tokens_[std::min(pos_ + 1, tokens_.size() - 1)]; }
  Token Next() {
    Token token = current();
    if (pos_ + 1 < tokens_.size()) ++pos_;
    return token;
  }
  bool Is(TokenKind kind) const { return current().kind == kind; }
  bool IsName(std::string_view name) const {
    return Is(TokenKind::kName) && current().text == name;
  }
  bool IsOperator(std::string_view op) const {
    return Is(TokenKind::kOperator) && current().text == op;
  }
  bool SkipName(std::string_view name) {
    if (!IsName(name)) return false;
    Next();
    return true;
  }
  bool SkipOperator(std::string_view op) {
    if (!IsOperator(op)) return false;
    Next();
    return true;
  }
  Token Expect(TokenKind kind, const char* what) {
    if (!Is(kind)) Unexpected(what);
    return Next();
  }
  void ExpectOperator(std::string_view op) {
    if (!IsOperator(op)) Unexpected("'" + std::string(op) + "'");
    Next();
  }
  [[noreturn]] void Unexpected(const std::string& expected) const {
    SyntaxError("expected " + expected + ", got " + Describe(current()));
  }
  [[noreturn]] void SyntaxError(const std::string& message) const {
    Fail("TemplateSyntaxError", message, current().line);
  }

 private:
  static std::string Describe(const Token& token) {
    switch (token.kind) {
      case TokenKind::kText:
        return "template text";
      case TokenKind::kVariableBegin:
        return "'{{'";
      case TokenKind::kVariableEnd:
        return "'}}'";
      case TokenKind::kBlockBegin:
        return "'{%'";
      case TokenKind::kBlockEnd:
        return "'%}'";
      case TokenKind::kEnd:
        return "end of template";
      default:
        return "'" + token.text + "'";
    }
  }

  std::vector<Token> tokens_;  // the last one is kEnd
  size_t pos_ = 0;
};

}  // namespace palu::jinja
