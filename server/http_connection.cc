#include "server/http_connection.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http/error.hpp>
#include <utility>

#include "server/error_table.h"
#include "server/http_target.h"
#include "server/request_id.h"
#include "server/tcp_keepalive.h"

namespace palu {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

constexpr size_t kReadBytes = 16 << 10;
// Pipelined requests beyond this wait in the kernel.
constexpr size_t kMaxPipelinedBytes = 64 << 10;
constexpr auto kProbeInterval = std::chrono::seconds(1);
constexpr auto kLinger = std::chrono::seconds(2);
constexpr size_t kMaxLingerBytes = 64 << 20;

auto Into(error_code& error) { return asio::redirect_error(asio::use_awaitable, error); }

int StatusOfParseError(const error_code& error) {
  if (error == http::error::header_limit) return 431;
  if (error == http::error::body_limit || error == http::error::buffer_overflow) return 413;
  if (error == http::error::bad_version) return 505;
  if (error == http::error::bad_transfer_encoding) return 501;
  return 400;
}

}  // namespace

HttpConnection::HttpConnection(asio::ip::tcp::socket socket, std::shared_ptr<HttpShared> shared)
    : shared_(std::move(shared)),
      stream_(std::move(socket), shared_->Tls()),
      socket_(stream_.socket()),
      io_timer_(socket_.get_executor()),
      wake_timer_(socket_.get_executor()) {
  error_code ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  SetTcpKeepalive(socket_.native_handle(), shared_->config.tcp_keepalive,
                  shared_->config.write_timeout);
  const auto endpoint = socket_.remote_endpoint(ignored);
  if (!ignored) peer_ = endpoint.address().to_string();
  shared_->connections.fetch_add(1);
}

HttpConnection::~HttpConnection() { shared_->connections.fetch_sub(1); }

asio::awaitable<void> HttpConnection::Run() {
  const auto self = shared_from_this();  // without it, GCC 12's code of this trapped
  if (!co_await Handshake()) co_return;
  while (co_await ServeOne()) {
  }
  co_await LingeringClose();
}

asio::awaitable<void> HttpConnection::TurnAway() {
  const auto self = shared_from_this();
  if (!co_await Handshake()) co_return;
  const Parser parser;
  // Named: GCC 12 destroys a temporary of an awaited call twice.
  const ReadFailure failure{503, "This server has as many connections as it takes"};
  co_await Refuse(failure, parser);
  co_await LingeringClose();
}

// A client that offers no TLS, or no certificate where one is needed, is closed without a word.
asio::awaitable<bool> HttpConnection::Handshake() {
  if (!stream_.tls()) co_return true;
  Arm(Clock::now() + shared_->config.header_timeout);
  const error_code error = co_await stream_.Handshake();
  Disarm();
  co_return !error;
}

void HttpConnection::CloseIfIdle() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    // What has just been sent on it, or is about to be on a new one, still gets its answer (a 503).
    error_code ignored;
    if (!self->idle_ || !self->served_any_ || self->socket_.available(ignored) > 0) return;
    self->socket_.close(ignored);
  });
}

void HttpConnection::Arm(Clock::time_point deadline) {
  timed_out_ = false;
  const uint64_t generation = ++io_generation_;
  io_timer_.expires_at(deadline);
  io_timer_.async_wait([self = shared_from_this(), generation](const error_code& error) {
    if (error || generation != self->io_generation_) return;
    self->timed_out_ = true;
    error_code ignored;
    self->socket_.cancel(ignored);
  });
}

int HttpConnection::UnsentBytes() {
  int bytes = 0;
  return ioctl(socket_.native_handle(), SIOCOUTQ, &bytes) == 0 ? bytes : 0;
}

// A socket becomes writable only once a good part of the kernel's buffer is free, which may take a
// slow reader longer than the timeout: it is gone only if the buffer has not shrunk either.
void HttpConnection::ArmWrite() {
  timed_out_ = false;
  const uint64_t generation = ++io_generation_;
  const int unsent = UnsentBytes();
  io_timer_.expires_after(shared_->config.write_timeout);
  io_timer_.async_wait([self = shared_from_this(), generation, unsent](const error_code& error) {
    if (error || generation != self->io_generation_) return;
    if (self->UnsentBytes() < unsent) return self->ArmWrite();
    self->timed_out_ = true;
    error_code ignored;
    self->socket_.cancel(ignored);
  });
}

void HttpConnection::Disarm() {
  ++io_generation_;
  io_timer_.cancel();
}

asio::awaitable<HttpConnection::ReadResult> HttpConnection::Fill(Clock::time_point deadline) {
  Arm(deadline);
  error_code error;
  const size_t bytes = co_await stream_.ReadSome(buffer_.prepare(kReadBytes), &error);
  Disarm();
  buffer_.commit(bytes);
  if (!error) co_return ReadResult::kData;
  co_return timed_out_ ? ReadResult::kTimeout : ReadResult::kClosed;
}

asio::awaitable<std::optional<HttpConnection::ReadFailure>> HttpConnection::ReadHead(
    Parser* parser) {
  const auto deadline = Clock::now() + shared_->config.header_timeout;
  bool any = false;
  while (true) {
    if (!any) {
      // Empty lines before a request are skipped, as RFC 9112 asks.
      while (buffer_.size() > 0) {
        const char first = static_cast<const char*>(buffer_.data().data())[0];
        if (first != '\r' && first != '\n') break;
        buffer_.consume(1);
      }
    }
    if (buffer_.size() > 0) {
      any = true;
      error_code error;
      buffer_.consume(parser->put(buffer_.data(), error));
      if (error && error != http::error::need_more) {
        const int status = StatusOfParseError(error);
        co_return ReadFailure{status, status == 413
                                          ? "The request body is larger than the " +
                                                std::to_string(shared_->config.max_body_bytes) +
                                                " bytes that this server takes"
                                          : "Bad HTTP request: " + error.message()};
      }
      if (parser->is_header_done()) co_return std::nullopt;
    }
    const ReadResult result = co_await Fill(deadline);
    if (result == ReadResult::kClosed) co_return ReadFailure{};
    if (result == ReadResult::kTimeout) {
      co_return ReadFailure{any ? 408 : 0, "The request head took too long"};
    }
  }
}

asio::awaitable<std::optional<HttpConnection::ReadFailure>> HttpConnection::ReadBody(
    Parser* parser) {
  const auto expect = parser->get().find(http::field::expect);
  if (expect != parser->get().end() && !parser->is_done()) {
    if (!boost::beast::iequals(expect->value(), "100-continue")) {
      co_return ReadFailure{417, "The only expectation known is 100-continue"};
    }
    if (!co_await WriteAll("HTTP/1.1 100 Continue\r\n\r\n")) co_return ReadFailure{};
  }
  const auto deadline = Clock::now() + shared_->config.body_timeout;
  parser->eager(true);
  while (!parser->is_done()) {
    if (buffer_.size() > 0) {
      error_code error;
      buffer_.consume(parser->put(buffer_.data(), error));
      if (error && error != http::error::need_more) {
        const int status = StatusOfParseError(error);
        co_return ReadFailure{status, status == 413 ? "The request body is larger than this "
                                                      "server takes"
                                                    : "Bad HTTP body: " + error.message()};
      }
      if (parser->is_done()) break;
    }
    const ReadResult result = co_await Fill(deadline);
    if (result == ReadResult::kClosed) co_return ReadFailure{};
    if (result == ReadResult::kTimeout) co_return ReadFailure{408, "The request body is too slow"};
  }
  co_return std::nullopt;
}

asio::awaitable<std::optional<HttpConnection::ReadFailure>> HttpConnection::ReadRequest(
    Parser* parser) {
  idle_ = true;
  if (buffer_.size() == 0) {
    if (shared_->draining.load() && served_any_) co_return ReadFailure{};
    const ReadResult result = co_await Fill(Clock::now() + shared_->config.idle_timeout);
    if (result != ReadResult::kData) co_return ReadFailure{};
  }
  idle_ = false;
  parser->header_limit(static_cast<uint32_t>(shared_->config.max_header_bytes));
  parser->body_limit(static_cast<uint64_t>(shared_->config.max_body_bytes));
  auto failure = co_await ReadHead(parser);
  if (failure) co_return failure;
  // A body is not read for whoever may not ask.
  const HttpRequest head = ToRequest(parser);
  if (std::optional<HttpResponse> refusal = shared_->handler->RefuseHead(head)) {
    ReadFailure refused;
    refused.status = refusal->status;
    refused.response = std::move(refusal);
    co_return refused;
  }
  failure = co_await ReadBody(parser);
  co_return failure;
}

asio::awaitable<bool> HttpConnection::ServeOne() {
  Parser parser;
  const std::optional<ReadFailure> failure = co_await ReadRequest(&parser);
  if (failure) co_return co_await Refuse(*failure, parser);
  served_any_ = true;
  const auto started = Clock::now();
  HttpRequest request = ToRequest(&parser);
  const std::string method = request.method;
  const std::string traceparent = request.traceparent;
  const std::shared_ptr<BufferedReply> reply = MakeReply(request, parser);
  shared_->active_requests.fetch_add(1);
  shared_->handler->Handle(std::move(request), reply);
  const bool complete = co_await Exchange(reply);
  Log(*reply, method, traceparent, complete, started);
  shared_->active_requests.fetch_sub(1);
  co_return complete && reply->keep_alive() && !half_closed_;
}

asio::awaitable<bool> HttpConnection::Refuse(ReadFailure failure, const Parser& parser) {
  if (failure.status == 0) co_return false;
  ReplyOptions options;
  if (parser.is_header_done()) {
    options.request_id = SanitizeRequestId(std::string(parser.get()["x-request-id"]));
    options.headers = shared_->handler->CorsHeaders(std::string(parser.get()["origin"]));
    options.head = parser.get().method() == http::verb::head;
  }
  if (options.request_id.empty()) options.request_id = NewRequestId();
  BufferedReply reply(options, [] {});
  reply.Respond(failure.response ? std::move(*failure.response)
                                 : shared_->handler->Refuse(failure.status, failure.message));
  const std::string bytes = reply.Take().bytes;
  const bool complete = co_await WriteAll(bytes);
  const std::string method =
      parser.is_header_done() ? std::string(parser.get().method_string()) : "?";
  Log(reply, method, "", complete, Clock::now());
  co_return false;
}

HttpRequest HttpConnection::ToRequest(Parser* parser) {
  auto& message = parser->get();
  const auto field = [&message](http::field name) { return std::string(message[name]); };
  HttpRequest request;
  request.method = std::string(message.method_string());
  request.path = PathOfTarget(std::string_view(message.target().data(), message.target().size()));
  request.content_type = field(http::field::content_type);
  request.origin = field(http::field::origin);
  request.authorization = field(http::field::authorization);
  request.traceparent = CheckTraceparent(std::string(message["traceparent"]));
  request.request_id = SanitizeRequestId(std::string(message["x-request-id"]));
  request.named = !request.request_id.empty();
  if (!request.named) request.request_id = NewRequestId();
  request.body = std::move(message.body());
  return request;
}

std::shared_ptr<BufferedReply> HttpConnection::MakeReply(const HttpRequest& request,
                                                         const Parser& parser) {
  ReplyOptions options;
  options.head = request.method == "HEAD";
  options.http10 = parser.get().version() < 11;
  options.keep_alive = parser.get().keep_alive() && !half_closed_ && !shared_->draining.load();
  options.request_id = request.request_id;
  options.timing = parser.get().find("x-request-timing") != parser.get().end();
  options.headers = shared_->handler->CorsHeaders(request.origin);
  if (!request.traceparent.empty())
    options.headers.emplace_back("traceparent", request.traceparent);
  return std::make_shared<BufferedReply>(std::move(options), [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->Wake();
  });
}

void HttpConnection::Wake() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    self->woken_ = true;
    self->wake_timer_.cancel();
  });
}

asio::awaitable<void> HttpConnection::WaitForWork(bool streaming) {
  // Something may have come while the last bytes were being written.
  if (woken_) co_return;
  if (streaming) {
    wake_timer_.expires_after(shared_->config.sse_keepalive);
  } else if (half_closed_) {
    wake_timer_.expires_after(kProbeInterval);
  } else {
    wake_timer_.expires_at(Clock::time_point::max());
  }
  error_code error;
  co_await wake_timer_.async_wait(Into(error));
}

asio::awaitable<bool> HttpConnection::Exchange(std::shared_ptr<BufferedReply> reply) {
  bool complete = false;
  bool watched = false;
  while (!gone_) {
    woken_ = false;
    BufferedReply::Outbox outbox = reply->Take();
    if (!outbox.bytes.empty()) {
      if (!co_await WriteAll(outbox.bytes)) break;
      reply->Sent(outbox.bytes.size());
    }
    if (outbox.finished) {
      complete = true;
      break;
    }
    if (!watched) {
      watched = watching_ = watch_running_ = true;
      asio::co_spawn(socket_.get_executor(), Watch(reply), asio::detached);
    }
    // What came while these bytes were being written woke nobody.
    if (!outbox.bytes.empty()) continue;
    const auto waiting_since = Clock::now();
    const bool streaming = reply->streaming();
    co_await WaitForWork(streaming);
    const auto silence = Clock::now() - waiting_since;
    const auto limit = streaming ? Clock::duration(shared_->config.sse_keepalive)
                                 : Clock::duration(kProbeInterval);
    if ((streaming || half_closed_) && silence >= limit) reply->Probe();
  }
  if (!complete) reply->MarkGone();
  if (watched) co_await StopWatch();
  co_return complete;
}

// Reads what comes while an answer is being made: pipelined requests, or the end.
asio::awaitable<void> HttpConnection::Watch(std::shared_ptr<BufferedReply> reply) {
  const auto self = shared_from_this();
  error_code error;
  while (watching_ && buffer_.size() < kMaxPipelinedBytes && !error) {
    const size_t bytes = co_await stream_.ReadSome(buffer_.prepare(kReadBytes), &error);
    buffer_.commit(bytes);
  }
  if (error == asio::error::eof && watching_) {
    half_closed_ = true;
    error.clear();
    reply->Probe();
  }
  if (watching_ && !error) {
    co_await socket_.async_wait(asio::ip::tcp::socket::wait_error, Into(error));
    if (!error) error = asio::error::connection_reset;
  }
  if (watching_ && error) {
    gone_ = true;
    reply->MarkGone();
  }
  watch_running_ = false;
  woken_ = true;
  wake_timer_.cancel();
}

asio::awaitable<void> HttpConnection::StopWatch() {
  watching_ = false;
  while (watch_running_) {
    error_code error;
    socket_.cancel(error);
    wake_timer_.expires_at(Clock::time_point::max());
    co_await wake_timer_.async_wait(Into(error));
  }
}

asio::awaitable<bool> HttpConnection::WriteAll(std::string_view bytes) {
  // Mostly the kernel has room, and no timer need watch over it.
  size_t written = stream_.WriteAtOnce(asio::buffer(bytes));
  while (written < bytes.size()) {
    ArmWrite();
    error_code error;
    written += co_await stream_.WriteSome(
        asio::buffer(bytes.data() + written, bytes.size() - written), &error);
    Disarm();
    if (error) co_return false;
  }
  co_return true;
}

// A close with unread input in the kernel would make it drop the answer that is on its way.
asio::awaitable<void> HttpConnection::LingeringClose() {
  error_code error;
  const auto deadline = Clock::now() + kLinger;
  Arm(deadline);
  error = co_await stream_.ShutdownSend();
  Disarm();
  size_t discarded = 0;
  while (!error && !half_closed_ && discarded < kMaxLingerBytes) {
    buffer_.clear();
    Arm(deadline);
    discarded += co_await socket_.async_read_some(buffer_.prepare(kReadBytes), Into(error));
    Disarm();
  }
  socket_.close(error);
}

void HttpConnection::Log(const BufferedReply& reply, const std::string& method,
                         const std::string& traceparent, bool complete, Clock::time_point started) {
  HttpAccess access;
  access.method = method;
  access.route = reply.route();
  access.status = reply.status();
  access.aborted = !complete;
  access.bytes = reply.bytes_sent();
  access.milliseconds = std::chrono::duration<double, std::milli>(Clock::now() - started).count();
  access.request_id = reply.request_id();
  access.peer = peer_;
  access.traceparent = traceparent;
  access.outcome = reply.outcome();
  shared_->handler->Done(access);
}

}  // namespace palu
