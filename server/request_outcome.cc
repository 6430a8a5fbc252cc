#include "server/request_outcome.h"

#include "server/error_table.h"
#include "server/openai_response.h"
#include "server/request_id.h"

namespace palu {

RequestOutcome OutcomeOf(const PumpOutput& output) {
  RequestOutcome outcome;
  outcome.finish = output.finish ? FinishReasonName(*output.finish) : "stop";
  if (!output.status.ok()) outcome.finish = MapStatusCode(output.status.code).type;
  outcome.prompt_tokens = output.usage.prompt_tokens;
  outcome.completion_tokens = output.usage.completion_tokens;
  outcome.cached_tokens = output.usage.cached_tokens;
  const RequestTiming& timing = output.timing;
  const auto between = [](auto from, auto to) {
    const RequestTiming::Clock::time_point none{};
    return from == none || to == none
               ? 0.0
               : std::chrono::duration<double, std::milli>(to - from).count();
  };
  outcome.queue_ms = between(timing.arrival, timing.scheduled);
  const bool decoded = timing.first_token != RequestTiming::Clock::time_point{};
  outcome.prefill_ms = between(timing.scheduled, decoded ? timing.first_token : timing.finished);
  outcome.decode_ms = between(timing.first_token, timing.finished);
  return outcome;
}

std::string AccessDetails(const RequestOutcome& outcome, std::string_view traceparent) {
  std::string text;
  if (!outcome.finish.empty()) {
    text += " outcome=" + outcome.finish +
            " prompt_tokens=" + std::to_string(outcome.prompt_tokens) +
            " cached_tokens=" + std::to_string(outcome.cached_tokens) +
            " completion_tokens=" + std::to_string(outcome.completion_tokens);
  }
  if (!traceparent.empty()) text.append(" trace=").append(TraceId(traceparent));
  return text;
}

}  // namespace palu
