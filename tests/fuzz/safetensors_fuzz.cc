// Any bytes as a safetensors file: parsed or refused with LoadError, and every entry inside the
// file.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "engine/model/safetensors.h"
#include "engine/status.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  std::map<std::string, std::string> metadata;
  try {
    for (const auto& [name, entry] : palu::ParseSafetensors(file, "fuzz", &metadata)) {
      if (entry.data.data() < file.data() ||
          entry.data.data() + entry.data.size() > file.data() + file.size()) {
        std::abort();
      }
      // Touches both ends, for AddressSanitizer.
      volatile std::byte sink{};
      if (!entry.data.empty()) sink = entry.data.front() ^ entry.data.back();
      (void)sink;
    }
  } catch (const palu::LoadError&) {
  }
  return 0;
}
