#include "server/request_id.h"

#include <cstdint>
#include <cstdio>
#include <random>

namespace palu {

std::string SanitizeRequestId(std::string_view id) {
  constexpr size_t kMaxLength = 128;
  std::string safe;
  for (const char c : id) {
    const bool keep = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '-' || c == '_' || c == '.' || c == ':';
    if (keep && safe.size() < kMaxLength) safe += c;
  }
  return safe;
}

std::string CheckTraceparent(std::string_view value) {
  constexpr std::string_view kForm = "00-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";
  if (value.size() != kForm.size()) return {};
  for (size_t i = 0; i < kForm.size(); ++i) {
    const char c = value[i];
    const bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    if (kForm[i] == 'x' ? !hex : c != kForm[i]) return {};
  }
  const bool no_trace = value.substr(3, 32).find_first_not_of('0') == std::string_view::npos;
  const bool no_span = value.substr(36, 16).find_first_not_of('0') == std::string_view::npos;
  return no_trace || no_span ? std::string() : std::string(value);
}

std::string_view TraceId(std::string_view traceparent) {
  return traceparent.empty() ? traceparent : traceparent.substr(3, 32);
}

std::string NewRequestId() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  char text[33];
  std::snprintf(text, sizeof(text), "%016llx%016llx", static_cast<unsigned long long>(random()),
                static_cast<unsigned long long>(random()));
  return text;
}

}  // namespace palu
