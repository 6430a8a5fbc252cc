// Errors by value for requests, and the exception for files that cannot be loaded.
#pragma once

#include <stdexcept>
#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace palu {

enum class StatusCode {
  kOk,
  kInvalidArgument,
  kNotFound,
  kResourceExhausted,
  kUnavailable,
  kDeadlineExceeded,
  kCancelled,
  kInternal,
  kUnauthenticated,
};

struct Status {
  StatusCode code = StatusCode::kOk;
  std::string message;
  std::string param;  // request field at fault, or empty

  bool ok() const { return code == StatusCode::kOk; }
};

inline Status InvalidArgument(std::string message, std::string param = {}) {
  return {StatusCode::kInvalidArgument, std::move(message), std::move(param)};
}

template <typename T>
using Result = tl::expected<T, Status>;

// A model file that is missing, truncated or lying. what() is one line: file, tensor or key, the
// value found and the one expected.
class LoadError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace palu
