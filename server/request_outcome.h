// How generating requests ended: what both front ends' access logs say of it.
#pragma once

#include <string>
#include <string_view>

#include "server/sink.h"

namespace palu {

struct RequestOutcome {
  std::string finish;  // finish_reason of the last choice, or the type of the error; empty: none
  int prompt_tokens = 0;
  int completion_tokens = 0;
  int cached_tokens = 0;
  double queue_ms = 0, prefill_ms = 0, decode_ms = 0;
};

// What the last output says of the whole.
RequestOutcome OutcomeOf(const PumpOutput& output);

// Fields of a line of the access log, each after a space: tokens and outcome of requests that
// generate, and the trace that they are part of. traceparent: empty or valid.
std::string AccessDetails(const RequestOutcome& outcome, std::string_view traceparent);

}  // namespace palu
