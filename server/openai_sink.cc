#include "server/openai_sink.h"

#include "server/error_table.h"

namespace palu {

HttpResponse ErrorResponse(const Status& status) {
  HttpResponse response;
  response.status = MapStatusCode(status.code).http_status;
  response.body = ErrorBody(status);
  return response;
}

HttpOutcome OutcomeOf(const PumpOutput& output) {
  HttpOutcome outcome;
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

void UnarySink::Send(const PumpOutput& output) {
  response_.Add(output);
  if (!output.finished) return;
  reply_->SetOutcome(OutcomeOf(output));
  if (!output.status.ok()) {
    reply_->Respond(ErrorResponse(output.status));
    return;
  }
  HttpResponse response;
  response.body = response_.Body();
  reply_->Respond(std::move(response));
}

void StreamSink::Send(const PumpOutput& output) {
  reply_->Write(response_.Events(output));
  if (!output.finished) return;
  reply_->SetOutcome(OutcomeOf(output));
  reply_->Finish();
}

}  // namespace palu
