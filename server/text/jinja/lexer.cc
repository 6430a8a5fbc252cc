#include "server/text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <utility>

#include "server/text/jinja/error.h"
#include "server/text/jinja/literal.h"
#include "server/text/utf8.h"

namespace palu::jinja {
namespace {

std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
      continue;
    }
    out += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

bool IsNameStart(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_' || (c & 0x80) != 0;
}
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsSpace(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

// One template's pass. Used on the stack, by one thread.
class Lexer {
 public:
  explicit Lexer(std::string_view source)
      : source_(NormalizeNewlines(ReplaceInvalidUtf8(source))), in_(source_) {}

  std::vector<Token> Run() {
    while (pos_ < in_.size()) Text();
    Emit(TokenKind::kEnd, {});
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void SyntaxError(const std::string& message) const {
    Fail("TemplateSyntaxError", message, line_);
  }

  void Emit(TokenKind kind, std::string text) {
    Token token;
    token.kind = kind;
    token.text = std::move(text);
    token.line = line_;
    tokens_.push_back(std::move(token));
  }

  // Moves on, counting lines.
  void Skip(size_t count) {
    line_ +=
        static_cast<int>(std::count(in_.begin() + static_cast<std::ptrdiff_t>(pos_),
                                    in_.begin() + static_cast<std::ptrdiff_t>(pos_ + count), '\n'));
    pos_ += count;
  }
  void SkipSpace() {
    while (pos_ < in_.size() && IsSpace(in_[pos_])) Skip(1);
  }
  bool At(std::string_view text) const { return in_.substr(pos_).starts_with(text); }

  // Text up to the next tag, then the tag.
  void Text() {
    size_t tag = pos_;
    while (tag < in_.size()) {
      tag = in_.find('{', tag);
      if (tag == std::string_view::npos || tag + 1 >= in_.size()) tag = in_.size();
      if (tag == in_.size() || in_[tag + 1] == '{' || in_[tag + 1] == '%' || in_[tag + 1] == '#')
        break;
      ++tag;
    }
    std::string_view text = in_.substr(pos_, tag - pos_);
    const bool line_starting = pos_ == 0 || in_[pos_ - 1] == '\n';
    if (tag == in_.size()) {
      if (!text.empty()) Emit(TokenKind::kText, std::string(text));
      Skip(tag - pos_);
      return;
    }
    const char kind = in_[tag + 1];
    const char sign = tag + 2 < in_.size() ? in_[tag + 2] : ' ';
    text = StripBefore(text, kind, sign, line_starting);
    if (!text.empty()) Emit(TokenKind::kText, std::string(text));
    Skip(tag - pos_);
    Skip(sign == '-' || sign == '+' ? 3 : 2);
    if (kind == '#') return Comment();
    if (kind == '%' && Raw()) return;
    Expression(kind == '{');
  }

  static std::string_view StripBefore(std::string_view text, char kind, char sign,
                                      bool line_starting) {
    if (sign == '-') {
      while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
      return text;
    }
    if (sign == '+' || kind == '{') return text;
    const size_t newline = text.rfind('\n');
    if (newline == std::string_view::npos && !line_starting) return text;
    const size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
    const std::string_view indent = text.substr(begin);
    return std::all_of(indent.begin(), indent.end(), IsSpace) ? text.substr(0, begin) : text;
  }

  // Behind a tag's end: what it swallows.
  void AfterTag(char sign, bool trim_newline) {
    if (sign == '-') {
      SkipSpace();
    } else if (sign != '+' && trim_newline && At("\n")) {
      Skip(1);
    }
  }

  void Comment() {
    const size_t end = in_.find("#}", pos_);
    if (end == std::string_view::npos) SyntaxError("Missing end of comment tag");
    const char sign = end > pos_ ? in_[end - 1] : ' ';
    Skip(end + 2 - pos_);
    AfterTag(sign, /*trim_newline=*/true);
  }

  // {% raw %}: true where it was one; everything to {% endraw %} is text.
  bool Raw() {
    size_t at = pos_;
    const auto space = [&] {
      while (at < in_.size() && IsSpace(in_[at])) ++at;
    };
    space();
    if (!in_.substr(at).starts_with("raw")) return false;
    at += 3;
    space();
    const bool strip = in_.substr(at).starts_with("-%}");
    if (!strip && !in_.substr(at).starts_with("%}")) return false;
    Skip(at + (strip ? 3 : 2) - pos_);
    if (strip) SkipSpace();
    for (size_t tag = in_.find("{%", pos_); tag != std::string_view::npos;
         tag = in_.find("{%", tag + 2)) {
      at = tag + 2;
      const char sign = at < in_.size() ? in_[at] : ' ';
      if (sign == '-' || sign == '+') ++at;
      space();
      if (!in_.substr(at).starts_with("endraw")) continue;
      at += 6;
      space();
      const char end_sign = at < in_.size() ? in_[at] : ' ';
      if (end_sign == '-' || end_sign == '+') ++at;
      if (!in_.substr(at).starts_with("%}")) continue;
      const bool line_starting = pos_ == 0 || in_[pos_ - 1] == '\n';
      const std::string_view text =
          StripBefore(in_.substr(pos_, tag - pos_), '%', sign, line_starting);
      if (!text.empty()) Emit(TokenKind::kText, std::string(text));
      Skip(at + 2 - pos_);
      AfterTag(end_sign, /*trim_newline=*/true);
      return true;
    }
    SyntaxError("Missing end of raw directive");
  }

  void Expression(bool variable) {
    Emit(variable ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, {});
    const std::string_view end = variable ? "}}" : "%}";
    std::string open;  // brackets not yet closed
    for (;;) {
      SkipSpace();
      if (pos_ >= in_.size()) SyntaxError("unexpected end of template inside a tag");
      if (open.empty()) {
        const char sign = in_[pos_];
        const bool signed_end =
            (sign == '-' || (sign == '+' && !variable)) && in_.substr(pos_ + 1).starts_with(end);
        if (signed_end || At(end)) {
          Emit(variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd, {});
          Skip(signed_end ? 3 : 2);
          return AfterTag(signed_end ? sign : ' ', !variable);
        }
      }
      if (IsNameStart(in_[pos_])) {
        Name();
      } else if (IsDigit(in_[pos_])) {
        Number();
      } else if (in_[pos_] == '\'' || in_[pos_] == '"') {
        String();
      } else {
        Operator(&open);
      }
    }
  }

  void Name() {
    size_t end = pos_;
    while (end < in_.size() && (IsNameStart(in_[end]) || IsDigit(in_[end]))) ++end;
    Emit(TokenKind::kName, std::string(in_.substr(pos_, end - pos_)));
    pos_ = end;
  }

  void Number() {
    const NumberLiteral number = ReadNumber(in_.substr(pos_));
    if (number.length == 0) SyntaxError("bad number");
    Emit(number.is_real ? TokenKind::kFloat : TokenKind::kInteger,
         std::string(in_.substr(pos_, number.length)));
    tokens_.back().integer = number.integer;
    tokens_.back().real = number.real;
    pos_ += number.length;
  }

  void String() {
    const char quote = in_[pos_];
    size_t end = pos_ + 1;
    while (end < in_.size() && in_[end] != quote) end += in_[end] == '\\' ? 2 : 1;
    if (end >= in_.size()) SyntaxError("unterminated string");
    std::optional<std::string> text = Unescape(in_.substr(pos_ + 1, end - pos_ - 1));
    if (!text) SyntaxError("bad escape in a string");
    Emit(TokenKind::kString, *std::move(text));
    Skip(end + 1 - pos_);
  }

  void Operator(std::string* open) {
    static constexpr std::array<std::string_view, 6> kTwo = {"==", "!=", ">=", "<=", "//", "**"};
    static constexpr std::string_view kOne = "+-*/%~[](){}<>=.:|,;";
    const std::string_view two = in_.substr(pos_, 2);
    if (std::find(kTwo.begin(), kTwo.end(), two) != kTwo.end()) {
      Emit(TokenKind::kOperator, std::string(two));
      pos_ += 2;
      return;
    }
    const char c = in_[pos_];
    if (kOne.find(c) == std::string_view::npos) {
      SyntaxError("unexpected char " + std::string(1, c));
    }
    if (c == '(' || c == '[' || c == '{') *open += c;
    if (c == ')' || c == ']' || c == '}') {
      const char expected = c == ')' ? '(' : c == ']' ? '[' : '{';
      if (!open->ends_with(expected)) SyntaxError("unexpected '" + std::string(1, c) + "'");
      open->pop_back();
    }
    Emit(TokenKind::kOperator, std::string(1, c));
    ++pos_;
  }

  std::string source_;
  std::string_view in_;
  size_t pos_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> Tokenize(std::string_view source) { return Lexer(source).Run(); }

}  // namespace palu::jinja
