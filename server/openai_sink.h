// Sinks that answer HTTP requests with OpenAI-style JSON.
#pragma once

#include <functional>
#include <memory>

#include "server/http_types.h"
#include "server/openai_response.h"
#include "server/sink.h"

namespace palu {

HttpResponse ErrorResponse(const Status& status);

// One JSON body at the end. Used by the pump only.
class UnarySink final : public Sink {
 public:
  UnarySink(std::shared_ptr<HttpReply> reply, ResponseContext context)
      : reply_(std::move(reply)), response_(std::move(context)) {}
  void Send(const PumpOutput& output) override;
  bool full() const override { return false; }

 private:
  const std::shared_ptr<HttpReply> reply_;
  UnaryResponse response_;
};

// Server-sent events. Used by the pump only.
class StreamSink final : public Sink {
 public:
  StreamSink(std::shared_ptr<HttpReply> reply, ResponseContext context)
      : reply_(std::move(reply)), response_(std::move(context)) {}
  void Send(const PumpOutput& output) override;
  bool full() const override { return reply_->full(); }

 private:
  const std::shared_ptr<HttpReply> reply_;
  StreamResponse response_;
};

}  // namespace palu
