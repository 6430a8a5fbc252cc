#include "server/http_stream.h"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <string>
#include <utility>

namespace palu {

namespace asio = boost::asio;
namespace ssl = boost::asio::ssl;
using boost::system::error_code;

namespace {

auto Into(error_code* error) { return asio::redirect_error(asio::use_awaitable, *error); }

}  // namespace

TlsContext LoadTls(const TlsConfig& config) {
  if (config.cert_file.empty()) return nullptr;
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
  context->set_options(ssl::context::default_workarounds | ssl::context::no_tlsv1 |
                       ssl::context::no_tlsv1_1);
  error_code error;
  const auto check = [&error](const char* key, const std::string& file, const char* expected) {
    if (error) {
      throw ConfigError(std::string(key) + ": " + file + ": " + error.message() + ", expected " +
                        expected);
    }
  };
  context->use_certificate_chain_file(config.cert_file, error);
  check("tls.cert_file", config.cert_file, "a PEM file with the certificate and its chain");
  context->use_private_key_file(config.key_file, ssl::context::pem, error);
  check("tls.key_file", config.key_file, "a PEM file with the certificate's private key");
  if (!config.client_ca_file.empty()) {
    context->load_verify_file(config.client_ca_file, error);
    check("tls.client_ca_file", config.client_ca_file, "a PEM file with certificates");
    context->set_verify_mode(ssl::verify_peer | ssl::verify_fail_if_no_peer_cert);
  }
  return context;
}

HttpStream::HttpStream(Socket socket, TlsContext tls)
    : socket_(std::move(socket)), context_(std::move(tls)) {
  if (context_ != nullptr) stream_.emplace(socket_, *context_);
}

asio::awaitable<error_code> HttpStream::Handshake() {
  error_code error;
  if (stream_) co_await stream_->async_handshake(ssl::stream_base::server, Into(&error));
  co_return error;
}

asio::awaitable<size_t> HttpStream::ReadSome(asio::mutable_buffer buffer, error_code* error) {
  if (!stream_) co_return co_await socket_.async_read_some(buffer, Into(error));
  const size_t bytes = co_await stream_->async_read_some(buffer, Into(error));
  if (*error == ssl::error::stream_truncated) *error = asio::error::eof;
  co_return bytes;
}

asio::awaitable<size_t> HttpStream::WriteSome(asio::const_buffer buffer, error_code* error) {
  if (!stream_) co_return co_await socket_.async_write_some(buffer, Into(error));
  co_return co_await stream_->async_write_some(buffer, Into(error));
}

size_t HttpStream::WriteAtOnce(asio::const_buffer buffer) {
  if (stream_) return 0;
  error_code error;
  socket_.non_blocking(true, error);
  const size_t bytes = error ? 0 : socket_.write_some(buffer, error);
  return error ? 0 : bytes;
}

asio::awaitable<error_code> HttpStream::ShutdownSend() {
  error_code error;
  if (stream_) {
    co_await stream_->async_shutdown(Into(&error));
    error.clear();
  }
  socket_.shutdown(Socket::shutdown_send, error);
  co_return error;
}

}  // namespace palu
