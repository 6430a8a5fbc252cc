// One HTTP connection. Included by the HTTP server only: it drags Asio in.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "config/server_config.h"
#include "server/http_reply.h"
#include "server/http_stream.h"
#include "server/http_types.h"

namespace palu {

// State that all connections of a server share.
struct HttpShared {
  HttpConfig config;
  HttpHandler* handler = nullptr;
  std::atomic<bool> draining{false};
  std::atomic<int> active_requests{0};
  std::atomic<int> connections{0};

  void SetTls(TlsContext tls) {
    std::lock_guard<std::mutex> lock(mutex);
    tls_context = std::move(tls);
  }
  TlsContext Tls() {
    std::lock_guard<std::mutex> lock(mutex);
    return tls_context;
  }
  std::mutex mutex;
  TlsContext tls_context;  // guarded by mutex; null: in clear
};

// Reads requests one after the other (further ones may already be in the buffer), hands each to the
// handler and writes the answer. While an answer is being made it watches the socket, so that a
// peer that leaves is noticed at once. A peer that closed only its sending side still gets its
// answer: since both look alike at first, it is sent a harmless byte, which only a socket that is
// really gone answers with a reset. Everything runs on the socket's executor, a strand.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(boost::asio::ip::tcp::socket socket, std::shared_ptr<HttpShared> shared);
  ~HttpConnection();

  boost::asio::awaitable<void> Run();
  // There are too many connections: a 503, and the end.
  boost::asio::awaitable<void> TurnAway();
  // Closes the connection if it is between two requests and nothing was sent on it. Thread-safe.
  void CloseIfIdle();
  auto executor() { return stream_.socket().get_executor(); }

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  using Clock = std::chrono::steady_clock;
  enum class ReadResult { kData, kTimeout, kClosed };
  // A request that was not read: the answer's status, 0 to close without one.
  struct ReadFailure {
    int status = 0;
    std::string message;
    std::optional<HttpResponse> response = std::nullopt;  // instead of one made of these
  };

  boost::asio::awaitable<bool> ServeOne();
  boost::asio::awaitable<ReadResult> Fill(Clock::time_point deadline);
  boost::asio::awaitable<std::optional<ReadFailure>> ReadRequest(Parser* parser);
  boost::asio::awaitable<std::optional<ReadFailure>> ReadHead(Parser* parser);
  boost::asio::awaitable<std::optional<ReadFailure>> ReadBody(Parser* parser);
  boost::asio::awaitable<bool> Refuse(ReadFailure failure, const Parser& parser);
  HttpRequest ToRequest(Parser* parser);
  std::shared_ptr<BufferedReply> MakeReply(const HttpRequest& request, const Parser& parser);
  boost::asio::awaitable<bool> Exchange(std::shared_ptr<BufferedReply> reply);
  boost::asio::awaitable<void> Watch(std::shared_ptr<BufferedReply> reply);
  boost::asio::awaitable<void> StopWatch();
  boost::asio::awaitable<bool> WriteAll(std::string_view bytes);
  boost::asio::awaitable<void> WaitForWork(bool streaming);
  boost::asio::awaitable<void> LingeringClose();
  void Arm(Clock::time_point deadline);
  void ArmWrite();
  void Disarm();
  int UnsentBytes();  // in the kernel
  void Wake();
  void Log(const BufferedReply& reply, const std::string& method, const std::string& traceparent,
           bool complete, Clock::time_point started);

  boost::asio::awaitable<bool> Handshake();

  const std::shared_ptr<HttpShared> shared_;
  HttpStream stream_;
  boost::asio::ip::tcp::socket& socket_;  // stream_'s
  boost::beast::flat_buffer buffer_;      // read but not parsed
  boost::asio::steady_timer io_timer_;    // limits one read or write
  boost::asio::steady_timer wake_timer_;  // waits for something to write
  uint64_t io_generation_ = 0;
  bool timed_out_ = false;
  bool idle_ = true;
  bool served_any_ = false;
  bool half_closed_ = false;
  bool woken_ = false;  // since the reply's bytes were last taken
  bool watching_ = false;
  bool watch_running_ = false;
  bool gone_ = false;
  std::string peer_;
};

}  // namespace palu
