// Runs steps beside the engine thread.
#pragma once

#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "engine/step_batch.h"

namespace palu {

// One thread that calls the runner, one step at a time, so that the engine thread can plan and
// publish meanwhile; or, without overlap, no thread: Wait then runs the step itself. Owned and
// called by the engine thread. The runner must outlive it.
class StepWorker {
 public:
  StepWorker(StepRunner* runner, bool overlap);
  // A step that was launched runs to its end.
  ~StepWorker();
  StepWorker(const StepWorker&) = delete;
  StepWorker& operator=(const StepWorker&) = delete;

  struct Done {
    StepResult result;
    StepRunner::PhaseTimes times;
    double seconds = 0;       // of the step
    double idle_seconds = 0;  // between the end of the step before and this launch
  };

  // The batch must stay as it is until Wait has returned.
  void Launch(const StepBatch* batch);
  // Throws what the runner threw.
  Done Wait();

 private:
  void Loop();
  Done Run(const StepBatch& batch);

  StepRunner* const runner_;
  bool entered_ = false;
  double last_end_ = 0;  // seconds of the clock; 0: no step yet
  std::mutex mutex_;
  std::condition_variable changed_;
  const StepBatch* batch_ = nullptr;  // guarded by mutex_; null: nothing to run
  std::optional<Done> done_;          // guarded by mutex_
  std::exception_ptr error_;          // guarded by mutex_
  bool stop_ = false;                 // guarded by mutex_
  std::thread thread_;                // last: everything above exists while it runs
};

}  // namespace palu
