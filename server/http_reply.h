// The bytes of one answer, between whoever makes them and the connection that writes them.
#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <string_view>

#include "server/http_types.h"

namespace palu {

// How the request wants to be answered.
struct ReplyOptions {
  bool head = false;    // no body
  bool http10 = false;  // no chunked coding: the end of a stream is the end of the connection
  bool keep_alive = false;
  bool timing = false;     // Server-Timing is asked for
  std::string request_id;  // unless SetRequestId gives another
  std::vector<std::pair<std::string, std::string>> headers;
};

// Made by a connection for each request. Thread-safe.
class BufferedReply final : public HttpReply {
 public:
  // wake: tells the connection that there is something to take; must not block.
  BufferedReply(ReplyOptions options, std::function<void()> wake);

  void Respond(HttpResponse response) override;
  void StartStream() override;
  void Write(std::string_view data) override;
  void Finish() override;
  bool full() const override;
  void SetCallbacks(std::function<void()> on_gone, std::function<void()> on_writable) override;
  void SetOutcome(RequestOutcome outcome) override;
  void Hold(std::shared_ptr<void> permit) override;
  void SetRoute(const char* route) override;
  void SetRequestId(std::string id) override;

  // The connection's side.
  struct Outbox {
    std::string bytes;
    bool finished = false;  // nothing follows these bytes
  };
  Outbox Take();
  void Sent(size_t bytes);
  void MarkGone();
  // Adds a byte or more that changes nothing for the client: a comment to a stream, the start of
  // the status line otherwise. A peer that has closed answers it with a reset.
  void Probe();
  bool streaming() const;
  bool keep_alive() const;
  int status() const;
  const char* route() const;
  std::string request_id() const;
  RequestOutcome outcome() const;
  size_t bytes_sent() const;

 private:
  void AppendHead(int status, const HttpResponse& response, bool stream);
  void AppendChunk(std::string_view data);

  const ReplyOptions options_;
  const std::function<void()> wake_;
  mutable std::mutex mutex_;
  // All below guarded by mutex_.
  std::string pending_;
  size_t in_flight_ = 0;
  size_t bytes_sent_ = 0;
  size_t prefix_sent_ = 0;  // bytes of the status line that probes have used
  bool was_full_ = false;
  bool started_ = false;  // the head is in pending_ or further
  bool streaming_ = false;
  bool finished_ = false;
  bool gone_ = false;
  std::shared_ptr<void> permit_;
  RequestOutcome outcome_;
  bool keep_alive_;
  int status_ = 0;
  const char* route_ = "other";
  std::string request_id_;
  std::function<void()> on_gone_;
  std::function<void()> on_writable_;
};

}  // namespace palu
