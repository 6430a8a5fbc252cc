// Where a grammar takes any text of some classes of characters.
#pragma once

#include "server/structured/grammar.h"

namespace palu::structured {

// Sets Grammar::Node::loops and Grammar::Rule::chars.
void FindRuns(Grammar* grammar);

}  // namespace palu::structured
