#include "server/structured/ebnf_parser.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/structured/utf8_codes.h"

namespace palu::structured {
namespace {

constexpr int kMaxDepth = 100;
constexpr int kMaxRepeat = 1000;
constexpr size_t kMaxNodes = 500000;

bool IsNameCode(CodePoint c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_';
}

// Recursive descent that builds while it reads.
class Parser {
 public:
  Parser(const std::vector<CodePoint>& text, GrammarBuilder* builder)
      : text_(text), builder_(builder) {}

  Result<int> Run() {
    for (SkipSpace(true); ok() && at_ < text_.size(); SkipSpace(true)) Rule();
    for (const auto& [name, rule] : rules_) {
      if (!rule.defined) Fail("there is no rule '" + name + "'");
    }
    if (rules_.find("root") == rules_.end()) Fail("there is no rule 'root'");
    if (!ok()) {
      return tl::unexpected(InvalidArgument("is no grammar: " + error_ + " (line " +
                                            std::to_string(error_line_) + ")"));
    }
    return rules_["root"].id;
  }

 private:
  struct Named {
    int id = 0;
    bool defined = false;
  };

  bool ok() const { return error_.empty(); }
  bool Peek(CodePoint c) const { return ok() && at_ < text_.size() && text_[at_] == c; }
  bool Take(CodePoint c) {
    if (!Peek(c)) return false;
    ++at_;
    return true;
  }
  void Fail(const std::string& what) {
    if (!ok()) return;
    error_ = what;
    error_line_ = 1 + static_cast<int>(std::count(
                          text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(at_), '\n'));
  }

  void SkipSpace(bool lines) {
    while (at_ < text_.size()) {
      const CodePoint c = text_[at_];
      if (c == '#') {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      } else if (c == ' ' || c == '\t' || c == '\r' || (lines && c == '\n')) {
        ++at_;
      } else {
        return;
      }
    }
  }

  std::string Name() {
    std::string name;
    while (at_ < text_.size() && IsNameCode(text_[at_])) name += static_cast<char>(text_[at_++]);
    if (name.empty()) Fail("a name is missing");
    return name;
  }

  Named& Find(const std::string& name) {
    const auto [it, added] = rules_.try_emplace(name);
    if (added) it->second.id = builder_->NewRule();
    return it->second;
  }

  // At a name that ::= follows: the next rule begins there.
  bool AtRule() {
    const size_t start = at_;
    while (at_ < text_.size() && IsNameCode(text_[at_])) ++at_;
    const bool named = at_ > start;
    SkipSpace(false);
    const bool found = named && Peek(':');
    at_ = start;
    return found;
  }

  void Rule() {
    const std::string name = Name();
    SkipSpace(false);
    if (!Take(':') || !Take(':') || !Take('=')) return Fail("'::=' is missing");
    const int start = builder_->NewNode();
    const int end = Choice(start, 0);
    Named& rule = Find(name);
    if (rule.defined) Fail("there are two rules '" + name + "'");
    rule.defined = true;
    builder_->Define(rule.id, start, end);
  }

  int Choice(int from, int depth) {
    const int end = builder_->NewNode();
    if (depth > kMaxDepth) Fail("groups are nested too deep");
    do {
      builder_->AddEmpty(Sequence(from, depth), end);
      SkipSpace(true);
    } while (Take('|'));
    return end;
  }

  int Sequence(int from, int depth) {
    for (;;) {
      SkipSpace(true);
      if (!ok() || at_ >= text_.size() || Peek('|') || Peek(')') || AtRule()) return from;
      from = Item(from, depth);
      if (builder_->size() > kMaxNodes) Fail("it is too large");
    }
  }

  // An atom is read once for every time that it may come: {m,n} are written out.
  int Item(int from, int depth) {
    const size_t begin = at_;
    int at = Atom(from, depth);
    const size_t end = at_;
    int min = 1, max = 1;
    if (!Quantifier(&min, &max)) return at;
    const size_t after = at_;
    const auto again = [&](int node) {
      at_ = begin;
      const int next = Atom(node, depth);
      at_ = end;
      return next;
    };
    // The first one was read from `from`; nodes before it lead past it where it may be missing.
    const int last = builder_->NewNode();
    if (min == 0) builder_->AddEmpty(from, last);
    if (max < 0) {
      for (int i = 1; i < min && ok(); ++i) at = again(at);
      const int loop = builder_->NewNode();
      builder_->AddEmpty(at, loop);
      builder_->AddEmpty(again(loop), loop);
      builder_->AddEmpty(loop, last);
    } else {
      for (int i = 1; i <= max && ok() && builder_->size() <= kMaxNodes; ++i) {
        if (i >= min) builder_->AddEmpty(at, last);
        if (i < max) at = again(at);
      }
    }
    at_ = after;
    return last;
  }

  bool Quantifier(int* min, int* max) {
    if (Take('*')) {
      *min = 0;
      *max = -1;
    } else if (Take('+')) {
      *max = -1;
    } else if (Take('?')) {
      *min = 0;
    } else if (Take('{')) {
      *min = Number();
      *max = Take(',') ? (Peek('}') ? -1 : Number()) : *min;
      if (!Take('}')) Fail("'}' is missing");
      if (*max == 0 || (*max > 0 && *max < *min)) Fail("a repetition whose end is below its start");
    } else {
      return false;
    }
    return ok();
  }

  int Number() {
    int value = 0;
    bool any = false;
    while (ok() && at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      value = value * 10 + static_cast<int>(text_[at_++] - '0');
      any = true;
      if (value > kMaxRepeat) Fail("a repetition of more than " + std::to_string(kMaxRepeat));
    }
    if (!any) Fail("a number is missing");
    return value;
  }

  int Atom(int from, int depth) {
    if (Take('"')) return Literal(from);
    if (Take('[')) return builder_->AddChars(from, Class(), Spelling::kPlain);
    if (Take('.')) return builder_->AddChars(from, CodeSet().Complement(), Spelling::kPlain);
    if (Take('(')) {
      const int end = Choice(Own(from), depth + 1);
      if (!Take(')')) Fail("')' is missing");
      return end;
    }
    if (at_ < text_.size() && IsNameCode(text_[at_])) {
      return builder_->AddCall(from, Find(Name()).id);
    }
    Fail("a text, class, group or name is missing");
    return from;
  }

  // A node of its own, so that what loops back to it does not pass what is before.
  int Own(int from) {
    const int node = builder_->NewNode();
    builder_->AddEmpty(from, node);
    return node;
  }

  int Literal(int from) {
    std::string text;
    while (ok() && !Peek('"')) {
      if (at_ >= text_.size()) {
        Fail("'\"' is missing");
        break;
      }
      AppendUtf8(Code(), &text);
    }
    ++at_;
    return builder_->AddText(from, text);
  }

  CodePoint Code() {
    const CodePoint c = text_[at_++];
    if (c != '\\') return c;
    if (at_ >= text_.size()) {
      Fail("a backslash at the end");
      return c;
    }
    const CodePoint escape = text_[at_++];
    const int digits = escape == 'x' ? 2 : escape == 'u' ? 4 : escape == 'U' ? 8 : 0;
    if (digits == 0) {
      return escape == 'n' ? '\n' : escape == 't' ? '\t' : escape == 'r' ? '\r' : escape;
    }
    CodePoint code = 0;
    for (int i = 0; i < digits; ++i) {
      const int digit = at_ < text_.size() ? HexDigit(text_[at_]) : -1;
      if (digit < 0 || code > kLastCodePoint) {
        Fail("a malformed escape");
        return c;
      }
      code = code * 16 + static_cast<CodePoint>(digit);
      ++at_;
    }
    if (code > kLastCodePoint || (code >= 0xD800 && code <= 0xDFFF)) {
      Fail("an escape that is no character");
      return c;
    }
    return code;
  }

  CodeSet Class() {
    const bool negated = Take('^');
    CodeSet set;
    while (ok() && !Peek(']')) {
      if (at_ >= text_.size()) {
        Fail("']' is missing");
        return set;
      }
      const CodePoint low = Code();
      CodePoint high = low;
      if (Peek('-') && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        ++at_;
        high = Code();
      }
      if (high < low) Fail("a range in a class whose end is below its start");
      set.Add({low, high});
    }
    ++at_;
    return negated ? set.Complement() : set;
  }

  const std::vector<CodePoint>& text_;
  GrammarBuilder* const builder_;
  size_t at_ = 0;
  std::map<std::string, Named> rules_;
  std::string error_;
  int error_line_ = 0;
};

}  // namespace

Result<int> AddEbnf(std::string_view text, GrammarBuilder* builder) {
  const std::optional<std::vector<CodePoint>> codes = DecodeUtf8(text);
  if (!codes) return tl::unexpected(InvalidArgument("is not valid UTF-8"));
  return Parser(*codes, builder).Run();
}

}  // namespace palu::structured
