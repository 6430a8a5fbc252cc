// What is kept of a gRPC call: ids in its answer's metadata, a line in the access log, a count.
// Included by the gRPC server only.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <string>
#include <string_view>

#include "server/request_counters.h"
#include "server/request_outcome.h"

namespace palu {

// The address in what gRPC calls a peer, "ipv4:10.0.0.1:5000" or "ipv6:%5B::1%5D:5000".
std::string AddressOfPeer(std::string_view peer);
// The first value that the client sent under this key, which is in lower case; empty: none.
std::string_view MetadataOf(const grpc::CallbackServerContext& context, const char* key);

// Made when a call begins, before anything is sent. Used by one thread at a time.
class CallLog {
 public:
  // method must be a literal. own_id: of the request's message; where the metadata has no
  // x-request-id, it is the call's.
  CallLog(grpc::CallbackServerContext* context, const char* method, std::string_view own_id = {});

  // The x-request-id that the client sent, made safe, else the message's, else a new one.
  const std::string& id() const { return id_; }
  void SetOutcome(RequestOutcome outcome) { outcome_ = std::move(outcome); }
  // Once, before the call is finished.
  void End(const grpc::Status& status, RequestCounters* counters) const;

 private:
  const char* const method_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  const std::string peer_;
  const std::string traceparent_;
  std::string id_;
  RequestOutcome outcome_;
};

}  // namespace palu
