// The numbers and strings of a schema, as automata and one by one.
#pragma once

#include <string>

#include "engine/status.h"
#include "server/structured/char_automaton.h"
#include "server/structured/schema_facets.h"

namespace palu::structured {

// All give kInvalidArgument with the path of the keyword at fault.

// The spellings of the numbers that fulfil the facets.
Result<CharDfa> NumbersOf(const Facets& facets);
// The texts, not yet spelled as JSON strings, that fulfil patterns and lengths.
Result<CharDfa> StringsOf(const Facets& facets);
// The names that propertyNames allows.
Result<CharDfa> NamesOf(const Facets& facets);
Result<bool> FulfilsNames(const std::string& name, const Facets& facets);
// Whether a value that the schema lists fulfils the keywords beside the list.
Result<bool> Fulfils(const Json& value, const Facets& facets);

}  // namespace palu::structured
