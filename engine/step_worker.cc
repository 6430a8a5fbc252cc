#include "engine/step_worker.h"

#include <chrono>
#include <utility>

#include "kernels/check.h"

namespace palu {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

StepWorker::StepWorker(StepRunner* runner, bool overlap) : runner_(runner) {
  if (overlap) thread_ = std::thread([this] { Loop(); });
}

StepWorker::~StepWorker() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void StepWorker::Launch(const StepBatch* batch) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    PALU_CHECK(batch_ == nullptr && !done_ && !error_);
    batch_ = batch;
  }
  if (thread_.joinable()) changed_.notify_all();
}

StepWorker::Done StepWorker::Wait() {
  if (!thread_.joinable()) return Run(*std::exchange(batch_, nullptr));
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return done_ || error_; });
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  Done done = std::move(*done_);
  done_.reset();
  return done;
}

void StepWorker::Loop() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || batch_ != nullptr; });
    if (batch_ == nullptr) return;
    const StepBatch& batch = *batch_;
    lock.unlock();
    std::optional<Done> done;
    std::exception_ptr error;
    try {
      done = Run(batch);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    batch_ = nullptr;
    done_ = std::move(done);
    error_ = error;
    changed_.notify_all();
  }
}

StepWorker::Done StepWorker::Run(const StepBatch& batch) {
  if (!std::exchange(entered_, true)) runner_->EnterThread();
  const double begin = Now();
  Done done;
  done.idle_seconds = last_end_ > 0 ? begin - last_end_ : 0;
  done.result = runner_->Run(batch);
  done.times = runner_->last_times();
  last_end_ = Now();
  done.seconds = last_end_ - begin;
  return done;
}

}  // namespace palu
