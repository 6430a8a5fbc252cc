// One step as flat host arrays, and what comes back from the device.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/cache/block_move.h"
#include "engine/request.h"
#include "engine/token_constraint.h"

namespace palu {

// One row of logits that is sampled or scored in this step.
struct SampleRow {
  int token_index = 0;                     // row of StepBatch::token_ids whose logits are used
  const SamplingParams* params = nullptr;  // lives until the step is committed
  uint64_t seed = 0;
  int64_t draw_index = 0;       // tokens generated before this one
  int32_t forced_token = -1;    // >= 0: score this token (prompt log-probabilities)
  int num_logprobs = -1;        // of this row
  bool hold_back_stop = false;  // min_tokens not reached: ban eos and stop ids
  const std::vector<int32_t>* history = nullptr;  // prompt and output tokens so far, if penalties
  int prompt_length = 0;                          // of history
  ConstraintState* constraint = nullptr;          // tells which tokens may be drawn
};

struct StepBatch {
  std::vector<int32_t> token_ids;     // [T]
  std::vector<int32_t> positions;     // [T]
  std::vector<int32_t> cu_seqlens;    // [S + 1]
  std::vector<int32_t> context_lens;  // [S]
  int num_groups = 1;                 // G, layer groups: each has its own blocks
  std::vector<int64_t> slot_mapping;  // [G, T]
  std::vector<int32_t> block_tables;  // [G, S, max_blocks], unused entries -1
  int max_blocks = 0;
  std::vector<SampleRow> rows;         // [R]
  std::vector<int32_t> pooled_tokens;  // [P] rows of token_ids whose final hidden state is wanted
  // Made in this order before the step runs: copy-on-write of shared blocks, and traffic with the
  // host tier.
  std::vector<BlockMove> block_moves;

  int num_tokens() const { return static_cast<int>(token_ids.size()); }
  int num_sequences() const { return static_cast<int>(context_lens.size()); }
  void Clear();
};

struct StepResult {
  std::vector<OutputToken> tokens;         // [R], in the order of rows
  std::vector<std::vector<float>> hidden;  // [P][D], in the order of pooled_tokens
};

// Runs steps. The real one is model/model_runner; tests use a fake. Called by the engine thread
// only. Throws std::runtime_error when the device failed: every request fails and the server goes
// unhealthy.
class StepRunner {
 public:
  virtual ~StepRunner() = default;
  // Called before the first Run, on the thread that will call it.
  virtual void EnterThread() {}
  virtual StepResult Run(const StepBatch& batch) = 0;
  // Phase times of the last Run, seconds.
  struct PhaseTimes {
    double upload = 0, forward = 0, sample = 0;
  };
  virtual PhaseTimes last_times() const = 0;
};

}  // namespace palu
