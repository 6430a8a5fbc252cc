// The engine's own scheduler, block allocator and prefix cache, driven by a cost model in place of
// a device: what a server would do under a trace, in simulated time.
#pragma once

#include <cstdint>
#include <vector>

#include "config/engine_config.h"
#include "engine/engine.h"
#include "tools/bench/step_model.h"
#include "tools/bench/trace.h"

namespace palu::bench {

struct Objectives {
  double first_token_seconds = 2;
  double inter_token_seconds = 0.1;  // mean of a request
};

// What a request goes through outside of the engine.
struct FrontEnd {
  double before_seconds = 0;  // until the engine has it
  double after_seconds = 0;   // from a token's step to its reader
};

struct SimulationResult {
  int requests = 0;
  int served = 0;
  int refused_queue = 0;     // 429
  int refused_too_long = 0;  // never fits
  int within_objectives = 0;
  double seconds = 0;  // from the first arrival to the last token
  int64_t prompt_tokens = 0, output_tokens = 0;
  int64_t prefix_query_tokens = 0, prefix_hit_tokens = 0;
  int preemptions = 0, swaps = 0;
  uint64_t host_stored_blocks = 0, host_loaded_blocks = 0;
  int64_t steps = 0;
  double busy_seconds = 0;  // of all steps
  int most_running = 0;
  int most_blocks = 0;                      // held by sequences at once
  double mean_running = 0;                  // over time, while there is work
  std::vector<double> first_token_seconds;  // of served requests, ascending
  std::vector<double> inter_token_seconds;  // means of served requests, ascending
};

// Deterministic. Requests' texts are made of the trace's prefix ids, so that what shares an id in
// the trace shares blocks here; outputs have the trace's lengths.
SimulationResult Simulate(const Trace& trace, const EngineOptions& options,
                          const EngineLimits& limits, const StepModel& model,
                          const Objectives& objectives, const FrontEnd& front_end = {});

// Of ascending values; fraction in [0, 1]. 0 if there are none.
double Percentile(const std::vector<double>& ascending, double fraction);

}  // namespace palu::bench
