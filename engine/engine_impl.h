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
#include "engine/step_worker.h"

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
  Status QueueFull(RequestQueue::PushResult result, size_t prompt_tokens);

  const EngineOptions options_;
  const EngineLimits limits_;
  EngineMetrics metrics_;
  RequestQueue queue_;
  std::atomic<int> unfinished_{0};
  std::atomic<bool> healthy_{true};
  // Set by streams that were cancelled or stopped; shared, because they may outlive the engine.
  const std::shared_ptr<std::atomic<bool>> attention_ = std::make_shared<std::atomic<bool>>(false);
  std::mutex seed_mutex_;
  std::mt19937_64 seed_source_;  // guarded by seed_mutex_

  // ---- engine thread
  // A step and its batch; while one is under way the next is planned in the other.
  struct Step {
    StepPlan plan;
    StepBatch batch;
    double schedule_seconds = 0;
  };

  void Loop();
  bool TakeIn();
  void Plan(Step* step);
  bool Finish(Step* step);
  void ReapIfAsked();
  bool Start(Step* step);
  void Fail(const std::string& what);
  void CountStep(const Step& step);
  void CountCache();
  void UpdateGauges();
  // Counts and publishes what events_ holds, and clears it.
  void Deliver();
  void CountEnded(const StepEvents::Ended& ended);

  StepWorker worker_;
  Scheduler scheduler_;
  std::vector<std::unique_ptr<RequestState>> incoming_;
  Step steps_[2];
  StepEvents events_;
  PrefixCache::Counters counted_;  // of the prefix cache, already in metrics_

  std::thread thread_;  // last: everything above exists while it runs
};

}  // namespace palu
