// Prompts that end inside the last message.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/status.h"

namespace palu {

// The rendered chat up to the end of its last message's content, so that a model goes on with it
// (Hugging Face's continue_final_message). kInvalidArgument where the content is not to be found.
Result<std::string> CutBehindLastMessage(std::string rendered,
                                         const nlohmann::ordered_json& messages);

}  // namespace palu
