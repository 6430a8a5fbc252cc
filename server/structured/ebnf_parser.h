// Grammars that clients write: guided_grammar.
#pragma once

#include <string_view>

#include "engine/status.h"
#include "server/structured/grammar_builder.h"

namespace palu::structured {

// Adds a grammar in the EBNF of llama.cpp (GBNF) and XGrammar, and returns the rule "root":
//   name ::= "text" [a-z] [^a-z] . ( alternatives | … ) name*  item+ item? item{m} item{m,}
//   item{m,n}
// with # comments; an alternative may go on in further lines. kInvalidArgument with the line.
Result<int> AddEbnf(std::string_view text, GrammarBuilder* builder);

}  // namespace palu::structured
