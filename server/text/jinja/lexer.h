// Template source to tokens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace palu::jinja {

enum class TokenKind {
  kText,           // between tags; whitespace control already applied
  kVariableBegin,  // {{
  kVariableEnd,
  kBlockBegin,  // {%
  kBlockEnd,
  kName,
  kString,  // text: unescaped
  kInteger,
  kFloat,
  kOperator,  // text: as written
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;
  int line = 1;
  int64_t integer = 0;
  double real = 0;
};

// With trim_blocks and lstrip_blocks on, one newline at the source's end dropped. Throws Error.
std::vector<Token> Tokenize(std::string_view source);

}  // namespace palu::jinja
