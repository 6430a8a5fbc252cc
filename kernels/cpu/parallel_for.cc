#include "kernels/cpu/parallel_for.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "kernels/cpu/cpu_set.h"

namespace palu::cpu {
namespace {

// About 30 microseconds: longer than the gap between two ops of a step, far shorter than a step.
constexpr int kSpins = 1000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads, std::vector<int> cpus) : cpus_(std::move(cpus)) {
  PALU_CHECK(cpus_.empty() || static_cast<int>(cpus_.size()) >= threads);
  workers_.reserve(std::max(threads - 1, 0));
  for (int i = 1; i < threads; ++i) {
    workers_.emplace_back([this, i] {
      if (!cpus_.empty()) BindThread(cpus_[i]);
      WorkerLoop(i);
    });
  }
}

void ThreadPool::EnterThread() const {
  if (!cpus_.empty()) BindThread(cpus_[0]);
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunJob(int64_t tasks, TaskFunction function, void* context) {
  function_ = function;
  context_ = context;
  tasks_ = tasks;
  next_task_.store(0, std::memory_order_relaxed);
  open_job_.store(++last_job_);
  if (sleepers_.load() > 0) {
    // Taking the mutex orders this after a sleeper's last look at open_job_.
    { std::lock_guard lock(mutex_); }
    wake_.notify_all();
  }
  TakeTasks(0);
  // Late workers must find the job closed; those that got in before are waited for. Sequential
  // consistency of these two and of the matching pair in WorkerLoop makes that exact.
  open_job_.store(0);
  for (int spin = 0; workers_inside_.load() != 0; ++spin) {
    if (spin < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::TakeTasks(int thread) {
  for (;;) {
    const int64_t task = next_task_.fetch_add(1, std::memory_order_relaxed);
    if (task >= tasks_) return;
    function_(context_, task, thread);
  }
}

void ThreadPool::WorkerLoop(int thread) {
  uint64_t last_job = 0;
  for (;;) {
    const uint64_t job = AwaitJob(last_job);
    if (job == 0) return;
    last_job = job;
    workers_inside_.fetch_add(1);
    if (open_job_.load() == job) TakeTasks(thread);
    workers_inside_.fetch_sub(1);
  }
}

uint64_t ThreadPool::AwaitJob(uint64_t last_job) {
  const auto new_job = [&] {
    const uint64_t job = open_job_.load();
    return job != last_job ? job : 0;
  };
  for (int spin = 0; spin < kSpins; ++spin) {
    if (const uint64_t job = new_job()) return job;
    if (stop_.load(std::memory_order_relaxed)) return 0;
    Pause();
  }
  std::unique_lock lock(mutex_);
  sleepers_.fetch_add(1);
  uint64_t job = 0;
  wake_.wait(lock, [&] { return stop_.load() || (job = new_job()) != 0; });
  sleepers_.fetch_sub(1);
  return stop_.load() ? 0 : job;
}

}  // namespace palu::cpu
