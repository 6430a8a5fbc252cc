// From what a client asked, in its terms, to requests of the engine.
#pragma once

#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/request.h"
#include "engine/status.h"
#include "server/generation.h"
#include "server/text/tokenizer.h"

namespace palu {

// One engine request per prompt: tokenized, truncated, with max_tokens settled. kInvalidArgument
// when prompt and max_tokens together exceed the model's context; the rest is checked by
// Engine::Submit. Thread-safe; may take long for long prompts.
Result<std::vector<Request>> MapGeneration(const GenerationSpec& spec, const Tokenizer& tokenizer,
                                           const EngineLimits& limits);

}  // namespace palu
