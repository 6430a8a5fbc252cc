// The one place where a Status becomes an HTTP answer or a gRPC code.
#pragma once

#include <string_view>

#include "engine/status.h"

namespace palu {

struct ErrorMapping {
  StatusCode code;
  int http_status;
  std::string_view type;  // error.type of the JSON body
  int grpc_code;          // grpc::StatusCode by number
};

// kOk maps to 200 and 0.
const ErrorMapping& MapStatusCode(StatusCode code);

// error.type for failures that HTTP itself finds (404, 405, 413, …) and no Status describes.
std::string_view HttpErrorType(int http_status);
// Reason phrase.
std::string_view HttpReason(int http_status);
// Clients are told to come back after this many seconds; 0: no Retry-After.
int RetryAfterSeconds(int http_status);

}  // namespace palu
