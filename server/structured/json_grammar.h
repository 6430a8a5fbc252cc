// The grammar of JSON text itself, as far as schemas share it.
#pragma once

#include <optional>
#include <string_view>

#include "server/structured/grammar_builder.h"

namespace palu::structured {

// Adds pieces of JSON to a builder, common rules once. What is written is JSON as models write it:
// after { [ , and before } ] nothing, a space, or a line break with at most 20 blanks; after :
// nothing or a space. So no text goes on with blanks for ever. The builder must outlive it.
class JsonGrammar {
 public:
  explicit JsonGrammar(GrammarBuilder* builder) : builder_(builder) {}

  int AddSpace(int from);
  int AddColon(int from);
  // A JSON string of min to max characters; max < 0: any number.
  int AddString(int from, int32_t min, int32_t max);
  // Rules of any string, any value and any object.
  int StringRule();
  int ValueRule();
  int ObjectRule();
  // {"key": value, …} of any keys and min to max values by the rule, and [value, …].
  int AddMap(int from, int value_rule, int32_t min, int32_t max);
  int AddList(int from, int value_rule, int32_t min, int32_t max);
  // A list whose items are written by `pair`, with a comma and space in between.
  int AddItems(int from, int item_rule, int32_t min, int32_t max);
  // A rule of a comma, space, and the item.
  int CommaRule(int item_rule);

 private:
  int CharRule();

  GrammarBuilder* const builder_;
  std::optional<int> char_, string_, value_, object_;
};

}  // namespace palu::structured
