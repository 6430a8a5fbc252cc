// The form that a client asks outputs to have: response_format, guided_…, structured_outputs,
// tools.
#pragma once

#include <string_view>

#include "server/json_fields.h"
#include "server/openai_request.h"

namespace palu {

// Reads response_format, structured_outputs and guided_… into spec->structured. body is the text of
// the request, which is read again where the order of keys counts. Errors are left in
// fields->status().
void ReadStructured(JsonFields* fields, std::string_view body, GenerationSpec* spec);

// Reads tools, tool_choice and parallel_tool_calls of a chat, after ReadStructured.
void ReadTools(JsonFields* fields, std::string_view body, ChatRequest* request);

// Refuses tools, and choices among them, where there is no chat.
void RefuseTools(JsonFields* fields);

// Objects in the order of the text. kInvalidArgument also where objects have so many keys that
// keeping their order would take long.
Result<nlohmann::ordered_json> ParseOrdered(std::string_view text);

}  // namespace palu
