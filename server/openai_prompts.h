// Prompts as OpenAI's routes take them.
#pragma once

#include <vector>

#include "server/generation.h"
#include "server/json_fields.h"

namespace palu {

// A string, [string], [int] or [[int]], required. Errors are left in fields->status().
void ReadPrompts(JsonFields* fields, const char* name, std::vector<Prompt>* prompts);

}  // namespace palu
