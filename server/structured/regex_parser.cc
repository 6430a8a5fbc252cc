#include "server/structured/regex_parser.h"

#include <unicode/uset.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/structured/utf8_codes.h"

namespace palu::structured {
namespace {

constexpr int kMaxDepth = 100;
constexpr int kMaxRepeat = 5000;
constexpr size_t kMaxNfaStates = 100000;

const CodeSet kDigits{{'0', '9'}};
const CodeSet kWord{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CodeSet kSpace{{9, 13},          {32, 32},         {0xA0, 0xA0},     {0x1680, 0x1680},
                     {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                     {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const CodeSet kLineEnds{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

// What was read: a set of characters, an anchor (as its own code point), or a composition.
struct Node {
  enum class Kind { kSet, kSequence, kChoice, kRepeat };
  Kind kind = Kind::kSequence;
  CodeSet set;
  std::vector<std::unique_ptr<Node>> parts;
  int min = 0, max = -1;  // of kRepeat; max -1: no limit
};
using NodePtr = std::unique_ptr<Node>;

NodePtr MakeSet(CodeSet set) {
  auto node = std::make_unique<Node>();
  node->kind = Node::Kind::kSet;
  node->set = std::move(set);
  return node;
}

// Recursive descent over the code points of a pattern. After a failure everything returns quickly.
class Parser {
 public:
  explicit Parser(const std::vector<CodePoint>& text) : text_(text) {}

  Result<NodePtr> Parse() {
    NodePtr node = Choice(0);
    if (error_.empty() && at_ < text_.size()) Fail("unmatched ')'");
    if (!error_.empty()) {
      return tl::unexpected(
          InvalidArgument("is no regular expression that this server takes: " + error_ +
                          " at character " + std::to_string(error_at_ + 1)));
    }
    return node;
  }

 private:
  bool More() const { return at_ < text_.size() && error_.empty(); }
  bool Peek(CodePoint c) const { return More() && text_[at_] == c; }
  bool Take(CodePoint c) {
    if (!Peek(c)) return false;
    ++at_;
    return true;
  }
  void Fail(const std::string& what) {
    if (!error_.empty()) return;
    error_ = what;
    error_at_ = at_;
  }

  NodePtr Choice(int depth) {
    auto choice = std::make_unique<Node>();
    choice->kind = Node::Kind::kChoice;
    if (depth > kMaxDepth) {
      Fail("groups are nested too deep");
      return choice;
    }
    do {
      choice->parts.push_back(Sequence(depth));
    } while (Take('|'));
    return choice->parts.size() == 1 ? std::move(choice->parts[0]) : std::move(choice);
  }

  NodePtr Sequence(int depth) {
    auto sequence = std::make_unique<Node>();
    while (More() && !Peek('|') && !Peek(')')) {
      NodePtr atom = Atom(depth);
      sequence->parts.push_back(Quantified(std::move(atom)));
    }
    return sequence;
  }

  NodePtr Atom(int depth) {
    const CodePoint c = text_[at_++];
    switch (c) {
      case '(':
        return Group(depth);
      case '[':
        return MakeSet(Class());
      case '.':
        return MakeSet(kLineEnds.Complement());
      case '^':
        return MakeSet({{kTextBegin, kTextBegin}});
      case '$':
        return MakeSet({{kTextEnd, kTextEnd}});
      case '\\':
        return MakeSet(Escape(false));
      case '*':
      case '+':
      case '?':
        --at_;
        Fail("nothing to repeat");
        ++at_;
        return MakeSet({});
      default:
        return MakeSet({{c, c}});
    }
  }

  NodePtr Group(int depth) {
    if (Take('?')) {
      if (Take('<')) {
        if (Peek('=') || Peek('!')) Fail("look-around is not regular");
        while (More() && !Peek('>')) ++at_;
        if (!Take('>')) Fail("unfinished group name");
      } else if (!Take(':')) {
        Fail(Peek('=') || Peek('!') ? "look-around is not regular" : "flags are not supported");
      }
    }
    NodePtr inner = Choice(depth + 1);
    if (!Take(')')) Fail("missing ')'");
    return inner;
  }

  NodePtr Quantified(NodePtr atom) {
    while (More()) {
      int min = 0, max = -1;
      if (Take('*')) {
      } else if (Take('+')) {
        min = 1;
      } else if (Take('?')) {
        max = 1;
      } else if (!Peek('{') || !Braces(&min, &max)) {
        return atom;
      }
      Take('?');
      if (Peek('+')) Fail("possessive quantifiers are not supported");
      auto repeat = std::make_unique<Node>();
      repeat->kind = Node::Kind::kRepeat;
      repeat->min = min;
      repeat->max = max;
      repeat->parts.push_back(std::move(atom));
      atom = std::move(repeat);
    }
    return atom;
  }

  std::optional<int> Number() {
    std::optional<int> value;
    while (More() && text_[at_] >= '0' && text_[at_] <= '9') {
      value = value.value_or(0) * 10 + static_cast<int>(text_[at_++] - '0');
      if (*value > kMaxRepeat) {
        Fail("a repetition of more than " + std::to_string(kMaxRepeat));
        return kMaxRepeat;
      }
    }
    return value;
  }

  // {m}, {m,} or {m,n}; a brace that begins none of them is a character.
  bool Braces(int* min, int* max) {
    const size_t begin = at_++;
    const std::optional<int> low = Number();
    std::optional<int> high = low;
    if (Take(',')) high = Number();
    const bool open = at_ > begin && at_ <= text_.size() && at_ >= 1 && text_[at_ - 1] == ',';
    if (!low || !Take('}')) {
      at_ = begin;
      return false;
    }
    *min = *low;
    *max = open ? -1 : high.value_or(*low);
    if (*max >= 0 && *max < *min) Fail("a repetition whose end is below its start");
    return true;
  }

  CodeSet Class() {
    const bool negated = Take('^');
    CodeSet set;
    while (More() && !Peek(']')) {
      const CodeSet low = ClassItem();
      if (!Peek('-') || at_ + 1 >= text_.size() || text_[at_ + 1] == ']') {
        set.Add(low);
        continue;
      }
      ++at_;
      const CodeSet high = ClassItem();
      const auto single = [](const CodeSet& s) {
        return s.ranges().size() == 1 && s.ranges()[0].first == s.ranges()[0].last;
      };
      if (!single(low) || !single(high)) {
        Fail("a range in a class needs a character on both sides");
      } else if (low.ranges()[0].first > high.ranges()[0].first) {
        Fail("a range in a class whose end is below its start");
      } else {
        set.Add({low.ranges()[0].first, high.ranges()[0].first});
      }
    }
    if (!Take(']')) Fail("missing ']'");
    return negated ? set.Complement() : set;
  }

  CodeSet ClassItem() {
    if (!More()) return {};
    const CodePoint c = text_[at_++];
    return c == '\\' ? Escape(true) : CodeSet{{c, c}};
  }

  CodeSet Escape(bool in_class) {
    if (!More()) {
      Fail("a backslash at the end");
      return {};
    }
    const CodePoint c = text_[at_++];
    const auto one = [](CodePoint code) { return CodeSet{{code, code}}; };
    switch (c) {
      case 'd':
        return kDigits;
      case 'D':
        return kDigits.Complement();
      case 'w':
        return kWord;
      case 'W':
        return kWord.Complement();
      case 's':
        return kSpace;
      case 'S':
        return kSpace.Complement();
      case 'n':
        return one('\n');
      case 't':
        return one('\t');
      case 'r':
        return one('\r');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case '0':
        return one(0);
      case 'x':
        return one(Hex(2, 2));
      case 'u':
        return one(UnicodeEscape());
      case 'c':
        return one(More() ? text_[at_++] % 32 : 0);
      case 'p':
        return Property(false);
      case 'P':
        return Property(true);
      case 'b':
        if (in_class) return one('\b');
        break;
      default:
        break;
    }
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '1' && c <= '9');
    if (letter) {
      --at_;
      Fail(c >= '1' && c <= '9'
               ? "back references are not regular"
               : std::string("the escape \\") + static_cast<char>(c) + " is not supported");
      ++at_;
    }
    return one(c);
  }

  CodePoint Hex(int least, int most) {
    CodePoint value = 0;
    int digits = 0;
    for (; digits < most && More(); ++digits) {
      const int digit = HexDigit(text_[at_]);
      if (digit < 0) break;
      value = value * 16 + static_cast<CodePoint>(digit);
      ++at_;
    }
    if (digits < least || value > kLastCodePoint) Fail("a malformed hexadecimal escape");
    return std::min(value, kLastCodePoint);
  }

  CodePoint UnicodeEscape() {
    if (Take('{')) {
      const CodePoint code = Hex(1, 6);
      if (!Take('}')) Fail("missing '}'");
      return code;
    }
    const CodePoint high = Hex(4, 4);
    if (high >= 0xD800 && high <= 0xDBFF && Take('\\') && Take('u')) {
      const CodePoint low = Hex(4, 4);
      if (low >= 0xDC00 && low <= 0xDFFF) return 0x10000 + ((high - 0xD800) << 10) + low - 0xDC00;
    }
    if (high >= 0xD800 && high <= 0xDFFF) Fail("a surrogate without its pair");
    return high;
  }

  CodeSet Property(bool negated) {
    std::u16string name = u"[\\p{";
    if (!Take('{')) Fail("missing '{' after \\p");
    while (More() && !Peek('}') && name.size() < 64) {
      name += static_cast<char16_t>(std::min<CodePoint>(text_[at_++], 0xFFFF));
    }
    if (!Take('}')) Fail("missing '}' after \\p{");
    name += u"}]";
    UErrorCode error = U_ZERO_ERROR;
    USet* icu = uset_openPattern(name.data(), static_cast<int32_t>(name.size()), &error);
    CodeSet set;
    if (U_FAILURE(error)) {
      Fail("an unknown Unicode property");
    } else {
      for (int32_t i = 0; i < uset_getItemCount(icu); ++i) {
        UChar32 first = 0, last = 0;
        UErrorCode ignored = U_ZERO_ERROR;
        if (uset_getItem(icu, i, &first, &last, nullptr, 0, &ignored) == 0) {
          set.Add({static_cast<CodePoint>(first), static_cast<CodePoint>(last)});
        }
      }
    }
    uset_close(icu);
    return negated ? set.Complement() : set.Complement().Complement();
  }

  const std::vector<CodePoint>& text_;
  size_t at_ = 0;
  std::string error_;
  size_t error_at_ = 0;
};

// Thompson's construction. False once there are too many states.
class NfaBuilder {
 public:
  CharNfa nfa;

  // Returns the state behind the node, -1 once it got too large.
  int Add(int from, const Node& node) {
    if (from < 0 || nfa.states().size() > kMaxNfaStates) return -1;
    switch (node.kind) {
      case Node::Kind::kSet:
        return nfa.AddSet(from, node.set);
      case Node::Kind::kSequence:
        for (const NodePtr& part : node.parts) from = Add(from, *part);
        return from;
      case Node::Kind::kChoice: {
        const int end = nfa.AddState();
        for (const NodePtr& part : node.parts) {
          const int last = Add(from, *part);
          if (last < 0) return -1;
          nfa.AddEpsilon(last, end);
        }
        return end;
      }
      case Node::Kind::kRepeat:
        return AddRepeat(from, node);
    }
    return -1;
  }

 private:
  int AddRepeat(int from, const Node& node) {
    const Node& part = *node.parts[0];
    for (int i = 0; i < node.min; ++i) from = Add(from, part);
    if (from < 0) return -1;
    if (node.max < 0) {
      // A state of its own, so that the loop does not lead back into what is before.
      const int loop = nfa.AddState();
      nfa.AddEpsilon(from, loop);
      const int last = Add(loop, part);
      if (last < 0) return -1;
      nfa.AddEpsilon(last, loop);
      const int end = nfa.AddState();
      nfa.AddEpsilon(loop, end);
      return end;
    }
    std::vector<int> exits = {from};
    for (int i = node.min; i < node.max; ++i) {
      from = Add(from, part);
      if (from < 0) return -1;
      exits.push_back(from);
    }
    const int end = nfa.AddState();
    for (const int exit : exits) nfa.AddEpsilon(exit, end);
    return end;
  }
};

}  // namespace

Result<CharDfa> CompileRegex(std::string_view pattern, RegexMode mode) {
  const std::optional<std::vector<CodePoint>> codes = DecodeUtf8(pattern);
  if (!codes) return tl::unexpected(InvalidArgument("is not valid UTF-8"));
  Result<NodePtr> node = Parser(*codes).Parse();
  if (!node) return tl::unexpected(node.error());
  NfaBuilder builder;
  const int start = builder.nfa.AddState();
  const CodeSet any = CodeSet().Complement();
  if (mode == RegexMode::kSearch) {
    for (const CodeRange& range : any.ranges()) builder.nfa.AddEdge(start, range, start);
  }
  const int begin = builder.nfa.AddState();
  builder.nfa.AddEpsilon(start, begin);
  const int end = builder.Add(begin, **node);
  if (end < 0) return tl::unexpected(InvalidArgument("is too complex: too many repetitions"));
  const int accept = builder.nfa.AddState();
  builder.nfa.AddEpsilon(end, accept);
  if (mode == RegexMode::kSearch) {
    for (const CodeRange& range : any.ranges()) builder.nfa.AddEdge(accept, range, accept);
  }
  return Determinize(builder.nfa, start, accept);
}

}  // namespace palu::structured
