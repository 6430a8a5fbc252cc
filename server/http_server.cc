#include "server/http_server.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "server/http_connection.h"

namespace palu {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

class HttpServer::Impl {
 public:
  Impl(const HttpConfig& config, HttpHandler* handler, const TlsConfig& tls)
      : shared_(std::make_shared<HttpShared>()),
        context_(std::max(config.threads, 1)),
        acceptor_(context_),
        pause_(context_) {
    shared_->config = config;
    shared_->handler = handler;
    shared_->SetTls(LoadTls(tls));
    Listen();
  }

  ~Impl() {
    context_.stop();
    for (std::thread& thread : threads_) thread.join();
  }

  void Start() {
    asio::co_spawn(context_, Accept(), asio::detached);
    const int threads = std::max(shared_->config.threads, 1);
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { context_.run(); });
  }

  void ReloadTls(const TlsConfig& tls) { shared_->SetTls(LoadTls(tls)); }

  void Drain() {
    shared_->draining.store(true);
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& weak : connections_) {
      if (const auto connection = weak.lock()) connection->CloseIfIdle();
    }
  }

  bool idle() const { return shared_->active_requests.load() == 0; }
  int port() const { return acceptor_.local_endpoint().port(); }

 private:
  void Listen() {
    const HttpConfig& config = shared_->config;
    const auto fail = [&config](const error_code& error) {
      throw ConfigError("cannot listen on " + config.address + ":" + std::to_string(config.port) +
                        " (http.address, http.port): " + error.message());
    };
    error_code error;
    tcp::resolver resolver(context_);
    const auto found = resolver.resolve(config.address, std::to_string(config.port), error);
    if (error) fail(error);
    const tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) fail(error);
  }

  // A completion handler: the connection lives until its coroutine has ended, whenever that begins.
  static auto Holding(std::shared_ptr<HttpConnection> connection) {
    return [held = std::move(connection)](const std::exception_ptr&) {};
  }

  asio::awaitable<void> Accept() {
    while (true) {
      error_code error;
      tcp::socket socket = co_await acceptor_.async_accept(
          asio::make_strand(context_), asio::redirect_error(asio::use_awaitable, error));
      if (error == asio::error::operation_aborted) co_return;
      if (error) {
        co_await Pause();
        continue;
      }
      auto connection = std::make_shared<HttpConnection>(std::move(socket), shared_);
      const int open = shared_->connections.load();
      const int limit = shared_->config.max_connections;
      if (open <= limit) {
        Remember(connection);
        asio::co_spawn(connection->executor(), connection->Run(), Holding(connection));
      } else if (open <= 2 * limit) {
        asio::co_spawn(connection->executor(), connection->TurnAway(), Holding(connection));
      }
    }
  }

  // Out of file descriptors: others have to end first.
  asio::awaitable<void> Pause() {
    pause_.expires_after(std::chrono::milliseconds(50));
    error_code ignored;
    co_await pause_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }

  void Remember(const std::shared_ptr<HttpConnection>& connection) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (connections_.size() >= 2 * remembered_alive_ + 64) {
      connections_.erase(std::remove_if(connections_.begin(), connections_.end(),
                                        [](const auto& weak) { return weak.expired(); }),
                         connections_.end());
      remembered_alive_ = connections_.size();
    }
    connections_.push_back(connection);
  }

  const std::shared_ptr<HttpShared> shared_;
  asio::io_context context_;
  tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::vector<std::weak_ptr<HttpConnection>> connections_;  // guarded by mutex_
  size_t remembered_alive_ = 0;                             // guarded by mutex_
};

HttpServer::HttpServer(const HttpConfig& config, HttpHandler* handler, const TlsConfig& tls)
    : impl_(std::make_unique<Impl>(config, handler, tls)) {}
HttpServer::~HttpServer() = default;
void HttpServer::Start() { impl_->Start(); }
void HttpServer::ReloadTls(const TlsConfig& tls) { impl_->ReloadTls(tls); }
void HttpServer::Drain() { impl_->Drain(); }
bool HttpServer::idle() const { return impl_->idle(); }
int HttpServer::port() const { return impl_->port(); }

}  // namespace palu
