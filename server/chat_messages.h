// The messages of a chat request, validated and brought into the form that chat templates expect.
#pragma once

#include <nlohmann/json.hpp>

#include "server/json_fields.h"

namespace palu {

// Reads the field "messages": roles are checked, content parts are joined to one string, the
// arguments of earlier tool calls are parsed. Other keys of a message are passed on. Errors are
// left in fields->status().
void ReadMessages(JsonFields* fields, nlohmann::ordered_json* messages);

}  // namespace palu
