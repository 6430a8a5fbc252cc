// The keywords of one JSON schema object.
#pragma once

#include "engine/status.h"
#include "server/structured/schema_facets.h"

namespace palu::structured {

// Reads everything but references and combinations into facets. kInvalidArgument, with the
// keyword's path as param: a wrong type, or a keyword that would not be enforced.
Status ReadKeywords(const SubSchema& schema, Facets* facets);

}  // namespace palu::structured
