#include "server/openai_sink.h"

#include "server/error_table.h"

namespace palu {

HttpResponse ErrorResponse(const Status& status) {
  HttpResponse response;
  response.status = MapStatusCode(status.code).http_status;
  response.body = ErrorBody(status);
  return response;
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
