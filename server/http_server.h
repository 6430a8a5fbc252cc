// Listens and runs connections.
#pragma once

#include <cstdint>
#include <memory>

#include "config/server_config.h"
#include "server/http_types.h"

namespace palu {

// HTTP/1.1 over Boost.Beast: a coroutine per connection on a few socket threads of its own.
// Thread-safe.
class HttpServer {
 public:
  // Binds at once. Throws ConfigError when the address cannot be listened on. handler must outlive
  // it.
  HttpServer(const HttpConfig& config, HttpHandler* handler, const TlsConfig& tls = {});
  // Stop, with the connections that are left cut off. No other thread may be using a reply or begin
  // to: a reply wakes its connection.
  ~HttpServer();

  void Start();
  // Connections made from now on use these files. Throws ConfigError and changes nothing when they
  // cannot be used.
  void ReloadTls(const TlsConfig& tls);
  // Answers from now on close their connection; idle connections are closed.
  void Drain();
  // No request is being answered.
  bool idle() const;
  int port() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace palu
