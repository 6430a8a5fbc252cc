// Measures what the simulator must know of a model on this machine.
#pragma once

#include <vector>

#include "config/engine_config.h"
#include "engine/model/model_runner.h"
#include "tools/bench/step_model.h"

namespace palu::bench {

// A step that was not used to make the table.
struct CostCheck {
  StepWork work;
  double measured_seconds = 0;
};

struct CostMeasurement {
  MeasuredCosts costs;
  std::vector<CostCheck> checks;
};

// Steps of chunks and of decoding, alone and mixed, all in turn so many times, the medians count;
// and a few requests through the engine, for the time between two steps. The runner was loaded with
// these options, cache.group_layers off.
CostMeasurement MeasureCosts(ModelRunner* runner, const EngineOptions& engine,
                             const CacheOptions& cache, int repetitions);

}  // namespace palu::bench
