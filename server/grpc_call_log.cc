#include "server/grpc_call_log.h"

#include <spdlog/spdlog.h>

#include <iterator>

#include "server/logging.h"
#include "server/request_id.h"

namespace palu {
namespace {

const char* CodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  const auto index = static_cast<size_t>(code);
  return index < std::size(kNames) ? kNames[index] : "UNKNOWN";
}

}  // namespace

std::string AddressOfPeer(std::string_view peer) {
  const size_t scheme = peer.find(':');
  if (scheme == std::string_view::npos) return std::string(peer);
  const std::string_view kind = peer.substr(0, scheme);
  if (kind != "ipv4" && kind != "ipv6") return std::string(kind);
  std::string_view address = peer.substr(scheme + 1);
  address = address.substr(0, address.rfind(':'));
  // Whether the brackets are escaped depends on the version of gRPC.
  for (const std::string_view open : {"[", "%5B"}) {
    if (address.starts_with(open)) address.remove_prefix(open.size());
  }
  for (const std::string_view close : {"]", "%5D"}) {
    if (address.ends_with(close)) address.remove_suffix(close.size());
  }
  return std::string(address);
}

std::string_view MetadataOf(const grpc::CallbackServerContext& context, const char* key) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find(key);
  if (found == metadata.end()) return {};
  return {found->second.data(), found->second.size()};
}

CallLog::CallLog(grpc::CallbackServerContext* context, const char* method, std::string_view own_id)
    : method_(method),
      peer_(AddressOfPeer(context->peer())),
      traceparent_(CheckTraceparent(MetadataOf(*context, "traceparent"))),
      id_(SanitizeRequestId(MetadataOf(*context, "x-request-id"))) {
  if (id_.empty()) id_ = SanitizeRequestId(own_id);
  if (id_.empty()) id_ = NewRequestId();
  context->AddInitialMetadata("x-request-id", id_);
  if (!traceparent_.empty()) context->AddInitialMetadata("traceparent", traceparent_);
}

void CallLog::End(const grpc::Status& status, RequestCounters* counters) const {
  const char* code = CodeName(status.error_code());
  counters->Add(method_, code);
  const double milliseconds =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started_)
          .count();
  const RequestLogFields fields(id_, traceparent_);
  spdlog::info("grpc {} {} {:.1f}ms peer={} id={}{}", method_, code, milliseconds, peer_, id_,
               AccessDetails(outcome_, traceparent_));
}

}  // namespace palu
