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
  HttpServer(const HttpConfig& config, HttpHandler* handler);
  ~HttpServer();  // Stop, with the connections that are left cut off

  void Start();
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
