// Any text as config.json, palu_config.json and head_wise_ranks: parsed or refused with LoadError.
#include <cstdint>
#include <string_view>

#include "engine/model/model_config.h"
#include "engine/model/palu_config.h"
#include "engine/model/rope.h"
#include "engine/status.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  palu::ModelConfig config;
  try {
    config = palu::ModelConfig::Parse(text, "config.json");
    for (const palu::RopeConfig& rope : config.ropes) palu::InverseFrequencies(rope);
    config.max_context();
    palu::ParseHeadWiseRanks(text, "config.json", config);
  } catch (const palu::LoadError&) {
  }
  config = {};
  config.num_layers = 2;
  config.num_kv_heads = 4;
  config.head_dim = 64;
  try {
    palu::ParsePaluConfig(text, "palu_config.json", config);
  } catch (const palu::LoadError&) {
  }
  return 0;
}
