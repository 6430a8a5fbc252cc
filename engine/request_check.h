// What a request must fulfil before it is queued.
#pragma once

#include "engine/engine.h"
#include "engine/request.h"
#include "engine/status.h"

namespace palu {

enum class RequestFault { kNone, kInvalid, kTooLong };

struct RequestCheck {
  RequestFault fault = RequestFault::kNone;
  Status status;  // kInvalidArgument with the field's name, if there is a fault
};

// Checks every field against the limits and clamps max_tokens to what the context and the whole
// pool can hold.
RequestCheck CheckRequest(const EngineLimits& limits, Request* request);

}  // namespace palu
