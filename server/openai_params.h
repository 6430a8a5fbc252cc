// The parameters that /v1/completions and /v1/chat/completions share.
#pragma once

#include "server/generation.h"
#include "server/json_fields.h"
#include "server/openai_request.h"

namespace palu {

// Reads sampling, stop, stream and bookkeeping fields. Errors are left in fields->status().
void ReadSharedParams(JsonFields* fields, GenerationSpec* spec, OpenAiOptions* options);

// Refuses fields that mean something we do not do, unless their value asks for nothing. A client
// must never believe that such a field had an effect.
void RefuseUnsupported(JsonFields* fields);

}  // namespace palu
