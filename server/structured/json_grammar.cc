#include "server/structured/json_grammar.h"

#include <algorithm>

#include "kernels/check.h"
#include "server/structured/number_automaton.h"

namespace palu::structured {
namespace {

constexpr int kMaxIndent = 20;

}  // namespace

int JsonGrammar::AddSpace(int from) {
  const int end = builder_->NewNode();
  builder_->AddEmpty(from, end);
  builder_->AddEmpty(builder_->AddText(from, " "), end);
  int at = builder_->AddText(from, "\n");
  for (int i = 0;; ++i) {
    builder_->AddEmpty(at, end);
    if (i == kMaxIndent) return end;
    const int next = builder_->AddText(at, " ");
    builder_->AddEmpty(builder_->AddText(at, "\t"), next);
    at = next;
  }
}

int JsonGrammar::AddColon(int from) {
  const int colon = builder_->AddText(from, ":");
  const int end = builder_->AddText(colon, " ");
  builder_->AddEmpty(colon, end);
  return end;
}

// One character, however it is written; halves of surrogate pairs only together.
int JsonGrammar::CharRule() {
  if (char_) return *char_;
  const int start = builder_->NewNode();
  const int end = builder_->AddChars(
      start, CodeSet({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}).Complement(), Spelling::kPlain);
  const int escape = builder_->AddText(start, "\\");
  builder_->AddEmpty(builder_->AddChars(escape,
                                        {{'"', '"'},
                                         {'/', '/'},
                                         {'\\', '\\'},
                                         {'b', 'b'},
                                         {'f', 'f'},
                                         {'n', 'n'},
                                         {'r', 'r'},
                                         {'t', 't'}},
                                        Spelling::kPlain),
                     end);
  const CodeSet hex{{'0', '9'}, {'A', 'F'}, {'a', 'f'}};
  const auto add = [&](int from, const CodeSet& set) {
    return builder_->AddChars(from, set, Spelling::kPlain);
  };
  const int code = builder_->AddText(escape, "u");
  const CodeSet no_d{{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}};
  const CodeSet d{{'D', 'D'}, {'d', 'd'}};
  int other = add(add(code, no_d), hex);
  builder_->AddEmpty(add(add(code, d), {{'0', '7'}}), other);
  builder_->AddEmpty(add(add(other, hex), hex), end);
  const int high = add(add(add(add(code, d), {{'8', '9'}, {'A', 'B'}, {'a', 'b'}}), hex), hex);
  const int low = add(builder_->AddText(high, "\\u"), d);
  builder_->AddEmpty(add(add(add(low, {{'C', 'F'}, {'c', 'f'}}), hex), hex), end);
  char_ = builder_->NewRule();
  builder_->Define(*char_, start, end);
  return *char_;
}

int JsonGrammar::AddString(int from, int32_t min, int32_t max) {
  const int quote = builder_->AddText(from, "\"");
  return builder_->AddText(builder_->AddCall(quote, CharRule(), min, max), "\"");
}

int JsonGrammar::StringRule() {
  if (string_) return *string_;
  const int start = builder_->NewNode();
  const int end = AddString(start, 0, -1);
  string_ = builder_->NewRule();
  builder_->Define(*string_, start, end);
  return *string_;
}

int JsonGrammar::CommaRule(int item_rule) {
  const int rule = builder_->NewRule();
  const int start = builder_->NewNode();
  builder_->Define(rule, start,
                   builder_->AddCall(AddSpace(builder_->AddText(start, ",")), item_rule));
  return rule;
}

int JsonGrammar::AddItems(int from, int item_rule, int32_t min, int32_t max) {
  const int end = builder_->NewNode();
  if (min == 0) builder_->AddEmpty(from, end);
  if (max == 0) return end;
  const int first = builder_->AddCall(from, item_rule);
  const int rest =
      builder_->AddCall(first, CommaRule(item_rule), std::max(min - 1, 0), max < 0 ? -1 : max - 1);
  builder_->AddEmpty(AddSpace(rest), end);
  return end;
}

int JsonGrammar::AddMap(int from, int value_rule, int32_t min, int32_t max) {
  const int pair = builder_->NewRule();
  const int start = builder_->NewNode();
  builder_->Define(pair, start,
                   builder_->AddCall(AddColon(builder_->AddCall(start, StringRule())), value_rule));
  const int open = AddSpace(builder_->AddText(from, "{"));
  return builder_->AddText(AddItems(open, pair, min, max), "}");
}

int JsonGrammar::AddList(int from, int value_rule, int32_t min, int32_t max) {
  const int open = AddSpace(builder_->AddText(from, "["));
  return builder_->AddText(AddItems(open, value_rule, min, max), "]");
}

int JsonGrammar::ObjectRule() {
  if (object_) return *object_;
  object_ = builder_->NewRule();
  const int start = builder_->NewNode();
  const int end = AddMap(start, ValueRule(), 0, -1);
  builder_->Define(*object_, start, end);
  return *object_;
}

int JsonGrammar::ValueRule() {
  if (value_) return *value_;
  value_ = builder_->NewRule();
  const int start = builder_->NewNode();
  const int end = builder_->NewNode();
  for (const char* name : {"null", "true", "false"}) {
    builder_->AddEmpty(builder_->AddText(start, name), end);
  }
  const Result<CharDfa> number = NumberAutomaton(false, {}, {});
  PALU_CHECK(number.has_value());
  builder_->AddEmpty(builder_->AddDfa(start, *number, Spelling::kPlain), end);
  builder_->AddEmpty(builder_->AddCall(start, StringRule()), end);
  builder_->AddEmpty(AddList(start, *value_, 0, -1), end);
  builder_->AddEmpty(builder_->AddCall(start, ObjectRule()), end);
  builder_->Define(*value_, start, end);
  return *value_;
}

}  // namespace palu::structured
