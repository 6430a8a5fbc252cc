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

std::string NewRequestId() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  char text[33];
  std::snprintf(text, sizeof(text), "%016llx%016llx", static_cast<unsigned long long>(random()),
                static_cast<unsigned long long>(random()));
  return text;
}

}  // namespace palu
