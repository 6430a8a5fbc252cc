// The bytes of one connection, in clear or under TLS. Included by the HTTP server only.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/system/error_code.hpp>
#include <memory>
#include <optional>

#include "config/server_config.h"

namespace palu {

using TlsContext = std::shared_ptr<boost::asio::ssl::context>;

// Null when the settings name no certificate. Throws ConfigError, naming the file, when one cannot
// be used.
TlsContext LoadTls(const TlsConfig& config);

// Used on the socket's executor. One read and one write may be under way at once; cancelling the
// socket ends both.
class HttpStream {
 public:
  using Socket = boost::asio::ip::tcp::socket;

  // tls may be null: in clear.
  HttpStream(Socket socket, TlsContext tls);

  Socket& socket() { return socket_; }
  bool tls() const { return stream_.has_value(); }

  boost::asio::awaitable<boost::system::error_code> Handshake();
  // eof: the peer sends no more, however it ended.
  boost::asio::awaitable<size_t> ReadSome(boost::asio::mutable_buffer buffer,
                                          boost::system::error_code* error);
  boost::asio::awaitable<size_t> WriteSome(boost::asio::const_buffer buffer,
                                           boost::system::error_code* error);
  // What the kernel takes at once, without waiting; 0 under TLS. Failures are left to WriteSome.
  size_t WriteAtOnce(boost::asio::const_buffer buffer);
  // Tells the peer that nothing follows.
  boost::asio::awaitable<boost::system::error_code> ShutdownSend();

 private:
  Socket socket_;
  const TlsContext context_;
  std::optional<boost::asio::ssl::stream<Socket&>> stream_;
};

}  // namespace palu
