// Ids of requests: the client's own made safe, or random ones.
#pragma once

#include <string>
#include <string_view>

namespace palu {

// Keeps letters, digits and "-_.:"; at most 128 bytes. May be empty.
std::string SanitizeRequestId(std::string_view id);
// The W3C trace context if it is one of version 00, else empty.
std::string CheckTraceparent(std::string_view value);
// The 32 hex digits of it that name the trace; empty for an empty one.
std::string_view TraceId(std::string_view traceparent);
// 32 random hex digits. Thread-safe.
std::string NewRequestId();

}  // namespace palu
