#include "engine/engine.h"

#include <utility>

#include "engine/engine_impl.h"
#include "engine/request_check.h"

namespace palu {

Engine::Engine(const EngineOptions& options, const EngineLimits& limits, StepRunner* runner)
    : impl_(std::make_unique<Impl>(options, limits, runner)) {}

Engine::~Engine() = default;

Result<RequestHandle> Engine::Submit(Request request) { return impl_->Submit(std::move(request)); }
void Engine::Drain() { impl_->Drain(); }
void Engine::Stop() { impl_->Stop(); }
bool Engine::idle() const { return impl_->idle(); }
bool Engine::healthy() const { return impl_->healthy(); }
MetricsSnapshot Engine::metrics() const { return impl_->metrics(); }
const EngineLimits& Engine::limits() const { return impl_->limits(); }

Engine::Impl::Impl(const EngineOptions& options, const EngineLimits& limits, StepRunner* runner)
    : options_(options),
      limits_(limits),
      metrics_(limits.max_context_tokens),
      queue_(options.max_queue_requests, options.max_queue_tokens),
      seed_source_(std::random_device{}()),
      worker_(runner, options.overlap),
      scheduler_(options, limits) {
  metrics_.blocks_total = limits.num_blocks;
  metrics_.host_blocks_total = scheduler_.host_allocator().num_blocks();
  thread_ = std::thread([this] { Loop(); });
}

Engine::Impl::~Impl() {
  queue_.Stop();
  thread_.join();
}

Result<RequestHandle> Engine::Impl::Submit(Request request) {
  const RequestCheck check = CheckRequest(limits_, &request);
  if (check.fault != RequestFault::kNone) {
    ++(check.fault == RequestFault::kTooLong ? metrics_.rejected_too_long
                                             : metrics_.rejected_invalid);
    return tl::make_unexpected(check.status);
  }
  const uint64_t seed = request.sampling.seed ? *request.sampling.seed : DrawSeed();
  const size_t prompt_tokens = request.prompt.size();
  auto stream = std::make_shared<OutputStream>(request.n, attention_);
  auto state = MakeRequestState(std::move(request), stream, seed);
  // Before the push: the engine thread may have ended it when the push returns.
  ++unfinished_;
  const RequestQueue::PushResult result = queue_.TryPush(&state);
  if (result == RequestQueue::PushResult::kOk) return RequestHandle(std::move(stream));
  --unfinished_;
  if (result != RequestQueue::PushResult::kClosed) {
    return tl::make_unexpected(QueueFull(result, prompt_tokens));
  }
  ++metrics_.rejected_draining;
  return tl::make_unexpected(
      Status{StatusCode::kUnavailable,
             healthy_ ? "the server is shutting down" : "the device has failed",
             {}});
}

Status Engine::Impl::QueueFull(RequestQueue::PushResult result, size_t prompt_tokens) {
  if (result == RequestQueue::PushResult::kFull) {
    ++metrics_.rejected_queue_full;
    return {StatusCode::kResourceExhausted,
            "the queue is full: " + std::to_string(options_.max_queue_requests) +
                " requests are waiting, the most that engine.max_queue_requests allows",
            {}};
  }
  ++metrics_.rejected_queue_tokens;
  return {StatusCode::kResourceExhausted,
          "the queue is full: " + std::to_string(queue_.tokens_held()) +
              " prompt tokens are waiting, with the " + std::to_string(prompt_tokens) +
              " of this request more than the " + std::to_string(options_.max_queue_tokens) +
              " of engine.max_queue_tokens",
          {}};
}

MetricsSnapshot Engine::Impl::metrics() const {
  MetricsSnapshot snapshot = metrics_.Snapshot();
  snapshot.requests_waiting += queue_.size();
  snapshot.queue_tokens = queue_.tokens_held();
  return snapshot;
}

uint64_t Engine::Impl::DrawSeed() {
  const std::lock_guard<std::mutex> lock(seed_mutex_);
  return seed_source_();
}

}  // namespace palu
