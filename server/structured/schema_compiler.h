// JSON schemas to grammars.
#pragma once

#include <memory>
#include <string>

#include "engine/status.h"
#include "server/structured/grammar.h"
#include "server/structured/grammar_builder.h"
#include "server/structured/schema_facets.h"

namespace palu::structured {

// Adds the rule of a schema's values to a builder. Everything that is generated is valid:
// properties come in the order of the schema, each once; strings, numbers and names are written in
// one or few of their possible ways. kInvalidArgument, with the path within the schema
// ("/properties/a/type") as param: bad schemas, keywords that are not enforced, schemas that are
// too complex.
Result<int> AddSchema(const Json& schema, GrammarBuilder* builder);

// The schema alone.
Result<std::shared_ptr<const Grammar>> CompileSchema(const Json& schema);
// Any JSON object.
std::shared_ptr<const Grammar> CompileJsonObject();

}  // namespace palu::structured
