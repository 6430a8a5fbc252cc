// Key files: whatever is in one, each line that is a key opens the server, and nothing else does.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/check.h"
#include "server/api_keys.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 16384) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  palu::SecurityConfig config;
  for (const std::string_view key : palu::KeysOfFile(text)) {
    PALU_CHECK(!key.empty() && key[0] != '#' && key.find('\n') == std::string_view::npos);
    PALU_CHECK(text.find(key) != std::string_view::npos);
    config.api_keys.emplace_back(key);
  }
  palu::ApiKeys keys(config);
  PALU_CHECK(keys.size() == config.api_keys.size());
  if (config.api_keys.empty()) return 0;
  const auto opens = [&keys](const std::string& header) {
    const palu::Status status = keys.Check(header);
    PALU_CHECK(status.ok() || status.code == palu::StatusCode::kUnauthenticated);
    return status.ok();
  };
  for (const std::string& key : config.api_keys) {
    PALU_CHECK(opens("Bearer " + key) && opens("bearer  " + key + " "));
    PALU_CHECK(!opens("Bearer:" + key) && !opens("Basic " + key));
    palu::ApiKeys::Admission admission;
    PALU_CHECK(keys.Admit("Bearer " + key, &admission).ok());
    PALU_CHECK(key.size() < 8 || admission.key.find(key) == std::string::npos);
  }
  opens(std::string(text));
  PALU_CHECK(!opens("Bearer ") && !opens(""));
  return 0;
}
