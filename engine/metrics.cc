#include "engine/metrics.h"

#include <algorithm>
#include <utility>

namespace palu {
namespace {

using Bounds = std::vector<double>;

const Bounds& FirstTokenBounds() {
  static const Bounds bounds = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
  return bounds;
}

const Bounds& PerTokenBounds() {
  static const Bounds bounds = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
  return bounds;
}

const Bounds& RequestBounds() {
  static const Bounds bounds = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
  return bounds;
}

// From 10 us to 10 s: a step of a small model on a GPU up to a long prefill on a CPU.
const Bounds& PhaseBounds() {
  static const Bounds bounds = {1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, .001, .0025, .005, .01,
                                .025, .05,    .1,   .25,  .5,     1,    2.5,  5,     10};
  return bounds;
}

// 1, 2, 5, 10, ... up to max_value.
Bounds OneTwoFive(int max_value) {
  Bounds bounds;
  for (int64_t decade = 1;; decade *= 10) {
    for (const int64_t mantissa : {1, 2, 5}) {
      if (mantissa * decade > max_value) return bounds;
      bounds.push_back(static_cast<double>(mantissa * decade));
    }
  }
}

Bounds PowersOfTwo(int first, int last) {
  Bounds bounds = {1};
  for (int value = first; value <= last; value *= 2) bounds.push_back(value);
  return bounds;
}

}  // namespace

Histogram::Histogram(std::vector<double> bounds) {
  data_.counts.assign(bounds.size() + 1, 0);
  data_.bounds = std::move(bounds);
}

void Histogram::Observe(double value, uint64_t times) {
  // lower_bound: a value that equals a bound belongs below it, as Prometheus' "le" says.
  const auto bucket = std::lower_bound(data_.bounds.begin(), data_.bounds.end(), value);
  const std::lock_guard<std::mutex> lock(mutex_);
  data_.counts[bucket - data_.bounds.begin()] += times;
  data_.sum += value * static_cast<double>(times);
  data_.count += times;
}

HistogramSnapshot Histogram::Snapshot() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return data_;
}

EngineMetrics::EngineMetrics(int max_context_tokens)
    : time_to_first_token(FirstTokenBounds()),
      inter_token_latency(PerTokenBounds()),
      time_per_output_token(PerTokenBounds()),
      e2e_latency(RequestBounds()),
      queue_time(RequestBounds()),
      prefill_time(RequestBounds()),
      decode_time(RequestBounds()),
      inference_time(RequestBounds()),
      request_prompt_tokens(OneTwoFive(max_context_tokens)),
      request_generation_tokens(OneTwoFive(max_context_tokens)),
      iteration_tokens(PowersOfTwo(8, 16384)),
      request_max_generation_tokens(OneTwoFive(max_context_tokens)),
      batch_sequences(PowersOfTwo(2, 1024)),
      batch_tokens(PowersOfTwo(2, 16384)),
      step_phase_seconds{Histogram(PhaseBounds()), Histogram(PhaseBounds()),
                         Histogram(PhaseBounds()), Histogram(PhaseBounds()),
                         Histogram(PhaseBounds())},
      step_gap_seconds(PhaseBounds()) {}

MetricsSnapshot EngineMetrics::Snapshot() const {
  MetricsSnapshot s;
  s.requests_running = requests_running;
  s.requests_waiting = requests_waiting;
  s.blocks_total = blocks_total;
  s.blocks_used = blocks_used;
  s.blocks_cached = blocks_cached;
  s.prompt_tokens = prompt_tokens;
  s.generation_tokens = generation_tokens;
  s.finished_stop = finished_stop;
  s.finished_length = finished_length;
  s.finished_abort = finished_abort;
  s.finished_error = finished_error;
  s.host_blocks_total = host_blocks_total;
  s.host_blocks_used = host_blocks_used;
  s.chunk_tokens = chunk_tokens;
  s.preemptions = preemptions;
  s.preemptions_swapped = preemptions_swapped;
  s.host_stored_blocks = host_stored_blocks;
  s.host_loaded_blocks = host_loaded_blocks;
  s.cache_dropped_blocks = cache_dropped_blocks;
  s.rejected_queue_tokens = rejected_queue_tokens;
  s.prefix_queries_tokens = prefix_queries_tokens;
  s.prefix_hits_tokens = prefix_hits_tokens;
  s.attended_tokens = attended_tokens;
  s.cancelled_client = cancelled_client;
  s.cancelled_deadline = cancelled_deadline;
  s.cancelled_slow_reader = cancelled_slow_reader;
  s.cancelled_shutdown = cancelled_shutdown;
  s.rejected_queue_full = rejected_queue_full;
  s.rejected_too_long = rejected_too_long;
  s.rejected_draining = rejected_draining;
  s.rejected_invalid = rejected_invalid;
  s.time_to_first_token = time_to_first_token.Snapshot();
  s.inter_token_latency = inter_token_latency.Snapshot();
  s.time_per_output_token = time_per_output_token.Snapshot();
  s.e2e_latency = e2e_latency.Snapshot();
  s.queue_time = queue_time.Snapshot();
  s.prefill_time = prefill_time.Snapshot();
  s.decode_time = decode_time.Snapshot();
  s.inference_time = inference_time.Snapshot();
  s.request_prompt_tokens = request_prompt_tokens.Snapshot();
  s.request_generation_tokens = request_generation_tokens.Snapshot();
  s.iteration_tokens = iteration_tokens.Snapshot();
  s.request_max_generation_tokens = request_max_generation_tokens.Snapshot();
  s.batch_sequences = batch_sequences.Snapshot();
  s.batch_tokens = batch_tokens.Snapshot();
  for (int i = 0; i < kNumStepPhases; ++i) {
    s.step_phase_seconds[i] = step_phase_seconds[i].Snapshot();
  }
  s.step_gap_seconds = step_gap_seconds.Snapshot();
  return s;
}

}  // namespace palu
