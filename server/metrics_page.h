// The text that Prometheus reads.
#pragma once

#include <cstdint>
#include <string>

#include "engine/metrics.h"
#include "server/model_service.h"
#include "server/request_counters.h"

namespace palu {

// Everything on the page, so that it is a pure function of its input.
struct MetricsInput {
  const MetricsSnapshot* engine = nullptr;  // null while the model loads
  const ModelInfo* model = nullptr;         // likewise
  RequestCounters::Counts http;
  RequestCounters::Counts grpc;
  int64_t process_resident_bytes = 0;
  int64_t device_free_bytes = -1;  // -1: not known
  int64_t device_total_bytes = -1;
};

inline constexpr const char* kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

// vLLM's names for what vLLM has, palu: for the rest; docs/api.md lists them.
std::string RenderMetrics(const MetricsInput& input);

// Reads the state now. Thread-safe.
std::string MetricsPage(const ServerState& state, const RequestCounters& http,
                        const RequestCounters& grpc);

}  // namespace palu
