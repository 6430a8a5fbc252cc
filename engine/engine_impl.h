// The engine behind its front door; included by engine*.cc only.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "engine/request_queue.h"
#include "engine/scheduler.h"
#include "engine/step_plan.h"

namespace palu {

// Submit, Close, metrics and flags may be used from any thread; what is below the line belongs to
// the engine thread.
class Engine::Impl {
 public:
  Impl(const EngineOptions& options, const EngineLimits& limits, StepRunner* runner);
  ~Impl();

  Result<RequestHandle> Submit(Request request);
  void Drain() { queue_.Close(); }
  void Stop() { queue_.Stop(); }
  bool idle() const { return unfinished_ == 0; }
  bool healthy() const { return healthy_; }
  MetricsSnapshot metrics() const;
  const EngineLimits& limits() const { return limits_; }

 private:
  uint64_t DrawSeed();

  const EngineLimits limits_;
  EngineMetrics metrics_;
  RequestQueue queue_;
  std::atomic<int> unfinished_{0};
  std::atomic<bool> healthy_{true};
  std::mutex seed_mutex_;
  std::mt19937_64 seed_source_;  // guarded by seed_mutex_

  // ---- engine thread
  void Loop();
  void Step();
  void Fail(const std::string& what);
  void CountStep(double schedule_seconds);
  void UpdateGauges();
  // Counts and publishes what events_ holds, and clears it.
  void Deliver();
  void CountEnded(const StepEvents::Ended& ended);

  StepRunner* const runner_;
  Scheduler scheduler_;
  std::vector<std::unique_ptr<RequestState>> incoming_;
  StepPlan plan_;
  StepBatch batch_;
  StepEvents events_;

  std::thread thread_;  // last: everything above exists while it runs
};

}  // namespace palu
