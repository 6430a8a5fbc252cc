#include "server/error_table.h"

#include <array>

namespace palu {
namespace {

// A permanent failure is never 5xx, because official clients retry those. kCancelled reaches a
// client only as an error event of a stream that nobody read.
constexpr std::array<ErrorMapping, 9> kMappings = {{
    {StatusCode::kOk, 200, "", 0},
    {StatusCode::kInvalidArgument, 400, "invalid_request_error", 3},
    {StatusCode::kUnauthenticated, 401, "authentication_error", 16},
    {StatusCode::kNotFound, 404, "not_found_error", 5},
    {StatusCode::kResourceExhausted, 429, "rate_limit_error", 8},
    {StatusCode::kUnavailable, 503, "unavailable_error", 14},
    {StatusCode::kDeadlineExceeded, 504, "timeout_error", 4},
    {StatusCode::kCancelled, 499, "cancelled_error", 1},
    {StatusCode::kInternal, 500, "server_error", 13},
}};

struct HttpText {
  int status;
  std::string_view reason;
  std::string_view type;
};

constexpr std::array<HttpText, 18> kHttpTexts = {{
    {200, "OK", ""},
    {204, "No Content", ""},
    {400, "Bad Request", "invalid_request_error"},
    {401, "Unauthorized", "authentication_error"},
    {404, "Not Found", "not_found_error"},
    {405, "Method Not Allowed", "invalid_request_error"},
    {408, "Request Timeout", "invalid_request_error"},
    {413, "Content Too Large", "invalid_request_error"},
    {415, "Unsupported Media Type", "invalid_request_error"},
    {417, "Expectation Failed", "invalid_request_error"},
    {429, "Too Many Requests", "rate_limit_error"},
    {431, "Request Header Fields Too Large", "invalid_request_error"},
    {499, "Client Closed Request", "cancelled_error"},
    {500, "Internal Server Error", "server_error"},
    {501, "Not Implemented", "invalid_request_error"},
    {503, "Service Unavailable", "unavailable_error"},
    {504, "Gateway Timeout", "timeout_error"},
    {505, "HTTP Version Not Supported", "invalid_request_error"},
}};

const HttpText* Find(int http_status) {
  for (const HttpText& text : kHttpTexts) {
    if (text.status == http_status) return &text;
  }
  return nullptr;
}

}  // namespace

const ErrorMapping& MapStatusCode(StatusCode code) {
  for (const ErrorMapping& mapping : kMappings) {
    if (mapping.code == code) return mapping;
  }
  return kMappings.back();
}

std::string_view HttpErrorType(int http_status) {
  const HttpText* text = Find(http_status);
  return text != nullptr ? text->type : "server_error";
}

std::string_view HttpReason(int http_status) {
  const HttpText* text = Find(http_status);
  return text != nullptr ? text->reason : "Unknown";
}

int RetryAfterSeconds(int http_status) {
  if (http_status == 429) return 1;
  return http_status == 503 ? 2 : 0;
}

}  // namespace palu
