// Tool calls as a grammar.
#pragma once

#include "engine/status.h"
#include "server/structured/grammar_builder.h"
#include "server/structured/structured_spec.h"
#include "server/structured/vocabulary.h"

namespace palu::structured {

// Adds the rule of one or, if parallel, more calls of the tools, with arguments that fulfil their
// schemas, written in the format. Marks that are special tokens of the vocabulary are asked for as
// such. kInvalidArgument with the tool's path and the path within its schema as param.
Result<int> AddToolCalls(const ToolRequest& request, ToolFormat format,
                         const Vocabulary& vocabulary, GrammarBuilder* builder);

}  // namespace palu::structured
