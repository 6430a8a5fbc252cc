// Counters, gauges and histograms of the engine, without any exporter's types. The names and
// buckets of the wire are given by whoever exports a snapshot.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace palu {

// Cumulative counts are made by the exporter; counts[i] is of (bounds[i - 1], bounds[i]].
struct HistogramSnapshot {
  std::vector<double> bounds;
  std::vector<uint64_t> counts;  // bounds.size() + 1
  double sum = 0;
  uint64_t count = 0;
};

// Thread-safe.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds);
  void Observe(double value, uint64_t times = 1);
  HistogramSnapshot Snapshot() const;

 private:
  mutable std::mutex mutex_;
  HistogramSnapshot data_;
};

enum class StepPhase { kSchedule, kUpload, kForward, kSample, kCommit };
inline constexpr int kNumStepPhases = 5;
inline constexpr std::array<const char*, kNumStepPhases> kStepPhaseNames = {
    "schedule", "upload", "forward", "sample", "commit"};

struct MetricsSnapshot {
  // Gauges.
  int requests_running = 0;
  int requests_waiting = 0;
  int blocks_total = 0;
  int blocks_used = 0;    // held by sequences
  int blocks_cached = 0;  // held only by the prefix cache
  int host_blocks_total = 0;
  int host_blocks_used = 0;
  int chunk_tokens = 0;      // prompt tokens that a step may take while others decode
  int64_t queue_tokens = 0;  // of prompts that wait for their first step
  // Counters.
  uint64_t prompt_tokens = 0;
  uint64_t generation_tokens = 0;
  uint64_t finished_stop = 0, finished_length = 0, finished_abort = 0, finished_error = 0;
  uint64_t preemptions = 0;
  uint64_t preemptions_swapped = 0;  // of these: whose blocks went to the host
  uint64_t host_stored_blocks = 0, host_loaded_blocks = 0;
  uint64_t cache_dropped_blocks = 0;  // prefix blocks that were lost
  uint64_t prefix_queries_tokens = 0, prefix_hits_tokens = 0;
  uint64_t attended_tokens = 0;  // cached tokens that steps read, as often as they read them
  uint64_t cancelled_client = 0, cancelled_deadline = 0, cancelled_slow_reader = 0,
           cancelled_shutdown = 0;
  uint64_t rejected_queue_full = 0, rejected_queue_tokens = 0, rejected_too_long = 0,
           rejected_draining = 0, rejected_invalid = 0;
  // Histograms; seconds or tokens.
  HistogramSnapshot time_to_first_token, inter_token_latency, time_per_output_token, e2e_latency,
      queue_time, prefill_time, decode_time, inference_time;
  HistogramSnapshot request_prompt_tokens, request_generation_tokens, iteration_tokens;
  HistogramSnapshot request_max_generation_tokens;  // of a request's longest choice
  HistogramSnapshot batch_sequences, batch_tokens;
  std::array<HistogramSnapshot, kNumStepPhases> step_phase_seconds;
  HistogramSnapshot step_gap_seconds;  // the device waited for the host between two steps
};

// Where the numbers of a snapshot are kept while the engine runs. The buckets are those that vLLM's
// dashboards expect. Thread-safe: counters and gauges may be touched from any thread, a snapshot
// taken at any time; one snapshot is not a single instant of all of them.
class EngineMetrics {
 public:
  explicit EngineMetrics(int max_context_tokens);
  MetricsSnapshot Snapshot() const;

  using Counter = std::atomic<uint64_t>;
  using Gauge = std::atomic<int>;

  Gauge requests_running{0}, requests_waiting{0}, blocks_total{0}, blocks_used{0}, blocks_cached{0};
  Gauge host_blocks_total{0}, host_blocks_used{0}, chunk_tokens{0};
  Counter prompt_tokens{0}, generation_tokens{0};
  Counter finished_stop{0}, finished_length{0}, finished_abort{0}, finished_error{0};
  Counter preemptions_swapped{0}, host_stored_blocks{0}, host_loaded_blocks{0},
      cache_dropped_blocks{0};
  Counter preemptions{0}, prefix_queries_tokens{0}, prefix_hits_tokens{0}, attended_tokens{0};
  Counter cancelled_client{0}, cancelled_deadline{0}, cancelled_slow_reader{0},
      cancelled_shutdown{0};
  Counter rejected_queue_tokens{0};
  Counter rejected_queue_full{0}, rejected_too_long{0}, rejected_draining{0}, rejected_invalid{0};

  Histogram time_to_first_token, inter_token_latency, time_per_output_token, e2e_latency,
      queue_time, prefill_time, decode_time, inference_time;
  Histogram request_prompt_tokens, request_generation_tokens, iteration_tokens;
  Histogram request_max_generation_tokens;
  Histogram batch_sequences, batch_tokens;
  std::array<Histogram, kNumStepPhases> step_phase_seconds;
  Histogram step_gap_seconds;
};

}  // namespace palu
