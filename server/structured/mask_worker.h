// Threads that work out token masks while the engine computes.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace palu::structured {

// Runs jobs of some milliseconds at most in the order in which they came. Thread-safe. The
// destructor runs what is queued.
class MaskWorker {
 public:
  explicit MaskWorker(int threads);
  ~MaskWorker();

  void Post(std::function<void()> job);

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;  // guarded by mutex_
  bool stopping_ = false;                   // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace palu::structured
