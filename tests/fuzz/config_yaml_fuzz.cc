// Settings files: any text is read or refused with a ConfigError, and what was read can be printed
// and read again.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "config/server_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  palu::ServerConfig config;
  try {
    palu::ApplyYaml(std::string(reinterpret_cast<const char*>(data), size), "input", &config);
  } catch (const palu::ConfigError&) {
    return 0;
  }
  palu::ServerConfig again;
  const std::string printed = palu::ToYaml(config);
  palu::ApplyYaml(printed, "printed", &again);
  if (palu::ToYaml(again) != printed) std::abort();
  return 0;
}
