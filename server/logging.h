// Log lines on stderr, as text or JSON.
#pragma once

#include <string>
#include <string_view>

#include "config/server_config.h"

namespace palu {

// Replaces spdlog's default logger. Before threads start.
void SetupLogging(const LogConfig& config);
// Thread-safe.
void SetLogLevel(const std::string& level);

// While it lives, the lines that its thread logs as JSON have the fields request_id and, unless
// traceparent is empty, trace_id. What it is given must outlive it; an inner one ends the outer
// one.
class RequestLogFields {
 public:
  // traceparent: empty or valid.
  RequestLogFields(std::string_view request_id, std::string_view traceparent);
  ~RequestLogFields();
  RequestLogFields(const RequestLogFields&) = delete;
  RequestLogFields& operator=(const RequestLogFields&) = delete;
};

}  // namespace palu
