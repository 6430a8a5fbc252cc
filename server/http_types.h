// HTTP as the rest of the server sees it: plain requests in, a reply to be filled. No sockets here.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/request_outcome.h"

namespace palu {

struct HttpRequest {
  std::string method;
  std::string path;  // percent-decoded, without query
  std::string body;
  std::string content_type;
  std::string origin;
  std::string authorization;
  std::string traceparent;  // W3C trace context; empty unless valid
  std::string request_id;   // that of the head, sanitised, or a new one
  bool named = false;       // it is that of the head
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

// The answer to one request. Thread-safe. Either Respond, or StartStream, Write… and Finish.
class HttpReply {
 public:
  virtual ~HttpReply() = default;

  virtual void Respond(HttpResponse response) = 0;
  virtual void StartStream() = 0;  // 200, text/event-stream
  virtual void Write(std::string_view data) = 0;
  virtual void Finish() = 0;
  // More is buffered than the socket takes; false once the peer is gone.
  virtual bool full() const = 0;
  // on_gone: the peer left before the answer was complete. on_writable: full() has become false.
  // Called on a socket thread; must not block. Fires at once if the peer has already left.
  virtual void SetCallbacks(std::function<void()> on_gone, std::function<void()> on_writable) = 0;
  // For the log and the timing header; before Respond or Finish.
  virtual void SetOutcome(RequestOutcome outcome) = 0;
  // Released as soon as the answer is complete, or with the reply.
  virtual void Hold(std::shared_ptr<void> permit) = 0;
  // Bounded name of the route, for metrics and the log.
  virtual void SetRoute(const char* route) = 0;
  // What the answer's head and the log call the request; before Respond or StartStream.
  virtual void SetRequestId(std::string id) = 0;
};

// What happened to one request, when it is over.
struct HttpAccess {
  std::string method;
  const char* route = "other";
  int status = 0;
  bool aborted = false;  // the peer left before the end
  size_t bytes = 0;      // of the answer
  double milliseconds = 0;
  std::string request_id;
  std::string peer;  // address
  std::string traceparent;
  RequestOutcome outcome;
};

// What a server asks for answers. Called on socket threads; must not block; must not throw.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  virtual void Handle(HttpRequest request, std::shared_ptr<HttpReply> reply) = 0;
  // Looks at a request without its body: the answer if it need not be read.
  virtual std::optional<HttpResponse> RefuseHead(const HttpRequest& request) = 0;
  // The answer to a request that could not be read (400, 408, 413, …).
  virtual HttpResponse Refuse(int status, const std::string& message) = 0;
  // Headers that every answer to a request with this Origin carries ("" if it had none).
  virtual std::vector<std::pair<std::string, std::string>> CorsHeaders(
      const std::string& origin) = 0;
  virtual void Done(const HttpAccess& access) = 0;
};

}  // namespace palu
