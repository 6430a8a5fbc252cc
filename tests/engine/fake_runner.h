// A StepRunner whose tokens depend on everything that the scheduler must get right, and the same
// model run alone, without any cache.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "engine/cache/block_allocator.h"
#include "engine/engine.h"
#include "engine/step_batch.h"

namespace palu::testing {

inline uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
  return hash ^ (hash >> 29);
}

// The history as the model sees it: tokens at their positions, the last window of them if it has
// one.
inline uint64_t HistoryHash(const std::vector<int32_t>& tokens, size_t length, int window = 0) {
  uint64_t hash = 17;
  const size_t first = window > 0 && length > static_cast<size_t>(window) ? length - window : 0;
  for (size_t i = first; i < length; ++i) hash = Mix(Mix(hash, tokens[i]), i);
  return hash;
}

inline float FakeLogprob(uint64_t history, int32_t token) {
  return -static_cast<float>(Mix(history, token) % 1000) / 100.0f;
}

// What the model sees: all that the first layer group sees, which is none of the smallest.
inline int VisibleWindow(const EngineLimits& limits) { return limits.group_windows[0]; }

int32_t FakeDraw(const EngineLimits& limits, const SamplingParams& params, uint64_t history,
                 uint64_t seed, int64_t draw_index, bool hold_back_stop);

// What a request gives when it is run alone; seed is of this choice.
struct ReferenceOutput {
  std::vector<int32_t> tokens;
  FinishReason finish = FinishReason::kLength;
  bool stopped_by_token = false;
};
ReferenceOutput RunAlone(const EngineLimits& limits, const Request& request, uint64_t seed);

// Keeps (token, position, layer group) per slot, written through slot_mapping and read back through
// the block tables of every group, and draws from the hash of what it reads: a wrong slot,
// position, copy or a block given away too early changes the output or is a violation. Used by one
// thread at a time; knobs are set before it is used.
class FakeRunner : public StepRunner {
 public:
  FakeRunner(const EngineLimits& limits, const EngineOptions& options);

  StepResult Run(const StepBatch& batch) override;
  PhaseTimes last_times() const override { return {1e-5, 2e-5, 3e-5}; }

  // Blocks and host slots that nobody holds must never be read again.
  void PoisonFreeBlocks(const BlockAllocator& blocks, const BlockAllocator& host);

  std::chrono::microseconds step_time{0};
  int throw_at_step = -1;
  // From this step on the device waits for Release(), so that a test can do what has to happen
  // meanwhile however long it takes. Thread-safe, as all that follows.
  void HoldFrom(int step);
  void Release() { HoldFrom(std::numeric_limits<int>::max()); }
  int steps() const { return steps_; }
  int max_step_tokens() const { return max_step_tokens_; }
  int max_step_sequences() const { return max_step_sequences_; }
  std::vector<std::string> violations() const;

 private:
  struct Cell {
    int32_t token;
    int32_t position;
    int32_t group;
  };
  void Violation(const std::string& what);
  void Move(const StepBatch& batch);
  void Write(const StepBatch& batch);
  void CheckShape(const StepBatch& batch);
  OutputToken RunRow(const StepBatch& batch, const SampleRow& row);
  std::vector<int32_t> Read(const StepBatch& batch, int group, int sequence, int length);

  const EngineLimits limits_;
  const EngineOptions options_;
  std::vector<Cell> cells_, host_cells_;
  std::atomic<int> steps_{0}, max_step_tokens_{0}, max_step_sequences_{0};
  mutable std::mutex mutex_;
  std::condition_variable released_;
  int hold_from_ = std::numeric_limits<int>::max();  // guarded by mutex_
  std::vector<std::string> violations_;              // guarded by mutex_
};

}  // namespace palu::testing
