// A loaded model ready to run steps: weights, latent cache and transformer on one backend.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "config/engine_config.h"
#include "engine/cache/latent_layout.h"
#include "engine/engine.h"
#include "engine/model/dummy_checkpoint.h"
#include "engine/model/model_config.h"
#include "engine/step_batch.h"
#include "kernels/backend.h"

namespace palu {

// Facts printed at start and exported as metrics.
struct CacheReport {
  int64_t capacity_bytes = 0;  // of the pool
  int64_t block_bytes = 0;
  int num_blocks = 0;
  int64_t host_bytes = 0;  // of the host tier
  int host_blocks = 0;
  int block_tokens = 0;
  std::vector<int> group_windows;             // as EngineLimits
  double bytes_per_token = 0;                 // of one that every layer sees
  double bytes_per_token_beyond_windows = 0;  // of one that only layers without a window see
  double bytes_per_token_uncompressed = 0;    // 16-bit dense cache of the same model
  int64_t capacity_tokens = 0;      // with several groups: in requests of max_context_tokens
  double full_length_requests = 0;  // of max_context_tokens
  int64_t weights_bytes = 0;
  int64_t workspace_bytes = 0;
  std::vector<LayerSpec> layers;
};

// Owned by the program; Run is called by the engine thread only, the rest is immutable after Load.
class ModelRunner : public StepRunner {
 public:
  // Loads checkpoint, sizes and allocates the pool. Throws LoadError or ConfigError-like
  // std::runtime_error (one line) when something is wrong or does not fit, with the arithmetic.
  static std::unique_ptr<ModelRunner> Load(const ModelOptions& model, const EngineOptions& engine,
                                           const CacheOptions& cache);
  // The same for a model without a checkpoint: random weights of its shapes, for benchmarks.
  // model.path is not read.
  static std::unique_ptr<ModelRunner> LoadDummy(const DummyModel& dummy, const ModelOptions& model,
                                                const EngineOptions& engine,
                                                const CacheOptions& cache);

  virtual const ModelConfig& config() const = 0;
  virtual const CacheReport& cache_report() const = 0;
  virtual const Backend& backend() const = 0;
  virtual EngineLimits limits() const = 0;

  // Called during Run with the logits [R, V] of rows [first_row, first_row + R) of the batch,
  // before they are sampled from; for evaluation and tests. An empty function ends it. The span is
  // valid during the call only.
  using LogitsObserver = std::function<void(int64_t first_row, std::span<const float> logits)>;
  virtual void ObserveLogits(LogitsObserver observer) = 0;
};

}  // namespace palu
