// The last steps of making a grammar.
#pragma once

#include "engine/status.h"
#include "server/structured/grammar.h"

namespace palu::structured {

// Sets the distances and runs, removes edges and calls that lead to dead ends, and checks that no
// rule calls itself before it has read a byte. kInvalidArgument: nothing matches, or such a call.
Status Analyze(Grammar* grammar);

}  // namespace palu::structured
