// A small pool of threads for data-parallel loops inside one op.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace palu::cpu {

// Owned by the CPU backend. One thread at a time calls Run, and not from inside a task. A call does
// not allocate. Workers wait actively for some microseconds after a loop, then sleep.
class ThreadPool {
 public:
  // threads includes the caller of Run: threads - 1 workers are started. cpus: one for each thread,
  // the caller's first, or none where threads are not bound.
  explicit ThreadPool(int threads, std::vector<int> cpus = {});
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  // Binds the calling thread to the caller's CPU.
  void EnterThread() const;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls fn(task, thread) for every task in [0, tasks), in any order, on up to size() threads, the
  // caller among them; thread < size() identifies the running thread. fn must not throw.
  template <typename Fn>
  void Run(int64_t tasks, Fn&& fn) {
    if (tasks <= 1 || workers_.empty()) {
      for (int64_t task = 0; task < tasks; ++task) fn(task, 0);
      return;
    }
    using Function = std::remove_reference_t<Fn>;
    const TaskFunction call = [](void* context, int64_t task, int thread) {
      (*static_cast<Function*>(context))(task, thread);
    };
    RunJob(tasks, call, const_cast<void*>(static_cast<const void*>(std::addressof(fn))));
  }

 private:
  using TaskFunction = void (*)(void* context, int64_t task, int thread);

  void RunJob(int64_t tasks, TaskFunction function, void* context);
  void TakeTasks(int thread);
  void WorkerLoop(int thread);
  // Returns the id of a job other than last_job, or 0 to stop.
  uint64_t AwaitJob(uint64_t last_job);

  // Members that threads wait on or take turns at have cache lines of their own.
  static constexpr size_t kLine = 64;

  // The current job; written by the caller only while no worker is inside.
  TaskFunction function_ = nullptr;
  void* context_ = nullptr;
  int64_t tasks_ = 0;
  uint64_t last_job_ = 0;
  alignas(kLine) std::atomic<int64_t> next_task_{0};
  alignas(kLine) std::atomic<uint64_t> open_job_{0};  // 0: closed
  alignas(kLine) std::atomic<int> workers_inside_{0};

  alignas(kLine) std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};

  const std::vector<int> cpus_;
  std::vector<std::thread> workers_;
};

}  // namespace palu::cpu
