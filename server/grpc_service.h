// The gRPC front end: palu.v1, health checks and reflection.
#pragma once

#include <chrono>
#include <memory>

#include "config/server_config.h"
#include "server/api_keys.h"
#include "server/model_service.h"
#include "server/request_counters.h"
#include "server/text_pool.h"

namespace palu {

// gRPC's callback API on gRPC's own threads; work on text is done on the pool. Thread-safe. What it
// points to must outlive it.
class GrpcServer {
 public:
  // Listens at once, NOT_SERVING. Throws ConfigError when the address cannot be listened on.
  // The files of tls must be usable; they are watched and read again when they change.
  GrpcServer(const GrpcConfig& config, const TlsConfig& tls, const ServerState* state,
             TextPool* pool, RequestCounters* counters, ApiKeys* keys);
  ~GrpcServer();  // Shutdown

  void SetServing(bool serving);
  // No generation is running.
  bool idle() const;
  int port() const;
  // Cuts off what still runs at the deadline.
  void Shutdown(std::chrono::milliseconds grace);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace palu
