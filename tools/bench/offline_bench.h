// Serves requests with the engine in this process, all of them there from the beginning.
#pragma once

#include <memory>
#include <vector>

#include "engine/engine.h"
#include "engine/model/model_runner.h"

namespace palu::bench {

struct OfflineOptions {
  int requests = 64;
  int prompt_tokens = 1024;  // random ids, so that no two share a prefix
  int output_tokens = 128;   // of every request
};

struct OfflineResult {
  double seconds = 0;
  int most_running = 0;  // requests at once
  uint64_t preemptions = 0;
  std::vector<double> first_token_seconds;  // per request from its submission, ascending
  std::vector<double> inter_token_seconds;  // per request the mean, ascending
  // Sums over all steps. The device waits in the first three.
  double schedule = 0, commit = 0, upload = 0, forward = 0, sample = 0;
};

// Blocks until every request has ended. Throws std::runtime_error when one fails.
OfflineResult ServeOffline(Engine* engine, const OfflineOptions& options);

}  // namespace palu::bench
