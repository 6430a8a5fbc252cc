// `palu-server plan`: how many users fit into a device's memory, without loading the model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/engine_config.h"

namespace palu {

struct PlanRequest {
  ModelOptions model;
  CacheOptions cache;
  EngineOptions engine;
  int64_t memory_bytes = 0;       // of the device
  double reserve_fraction = 0.1;  // of the device, for activations, logits and the driver
  int context_tokens = 0;         // of one user; 0: the most that the model takes
};

struct Plan {
  std::string model_type;
  int max_context_tokens = 0;  // of the model, with model.max_context_tokens
  int context_tokens = 0;
  int64_t weights_bytes = 0;
  int64_t reserve_bytes = 0;
  int64_t pool_bytes = 0;  // whole blocks that are left for the cache; what cache.memory should be
  int64_t capacity_tokens = 0;
  int64_t users = 0;  // that have context_tokens each, at the same time
  double bytes_per_token = 0;
  double bytes_per_token_beyond_windows = 0;  // as CacheReport
  double bytes_per_token_uncompressed = 0;    // 16-bit keys and values
  int64_t users_uncompressed = 0;             // in the same pool
};

// Reads config.json, palu_config.json and the headers of the weights. Throws LoadError where the
// checkpoint is wrong or nothing is left for a cache, with the arithmetic.
Plan MakePlan(const PlanRequest& request);

// The subcommand: arguments after "plan" (--gpu-memory, --context, --reserve and all settings) to
// what it prints. Throws ConfigError or LoadError.
std::string PlanText(const std::vector<std::string>& args);

}  // namespace palu
