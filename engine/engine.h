// Thread-safe front door of inference.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "config/engine_config.h"
#include "engine/cache/block_demand.h"
#include "engine/metrics.h"
#include "engine/output_stream.h"
#include "engine/request.h"
#include "engine/status.h"
#include "engine/step_batch.h"

namespace palu {

// What the scheduler must know of the model and the cache.
struct EngineLimits {
  int max_context_tokens = 0;
  int block_tokens = 16;
  int num_blocks = 0;
  int vocab_size = 0;
  std::vector<int32_t> eos_token_ids;
  // Of every layer group the largest sliding window if every layer of it has one: blocks that fall
  // out of it are given back. 0: some layer sees everything.
  std::vector<int> group_windows = {0};
  int max_chunk_tokens = 0;         // engine.step_tokens; with windows
  int num_host_blocks = 0;          // of the host tier; 0: none
  uint64_t cache_format_key = 0;    // LatentLayout::Fingerprint
  double block_copy_seconds = 0.0;  // measured: one block between device and host; 0: not known

  BlockDemand demand() const { return {block_tokens, group_windows, max_chunk_tokens}; }
};

// Move-only; destroying it cancels the request. Thread-safe as OutputStream.
class RequestHandle {
 public:
  explicit RequestHandle(std::shared_ptr<OutputStream> stream) : stream_(std::move(stream)) {}
  RequestHandle(RequestHandle&&) = default;
  RequestHandle& operator=(RequestHandle&& other) noexcept {
    if (this != &other) {
      if (stream_) stream_->Cancel();
      stream_ = std::move(other.stream_);
    }
    return *this;
  }
  ~RequestHandle() {
    if (stream_) stream_->Cancel();
  }
  OutputStream& stream() { return *stream_; }

 private:
  std::shared_ptr<OutputStream> stream_;
};

// Owns queue, scheduler, block allocator and the engine thread. All public methods are thread-safe.
class Engine {
 public:
  // The runner must outlive the engine. Starts the engine thread.
  Engine(const EngineOptions& options, const EngineLimits& limits, StepRunner* runner);
  // Stops, joins the thread, proves that every block came home.
  ~Engine();

  // kInvalidArgument: can never fit (the message has the arithmetic) or bad parameters;
  // kResourceExhausted: queue full; kUnavailable: draining or failed.
  Result<RequestHandle> Submit(Request request);

  // No new requests are taken; running ones go on.
  void Drain();
  // Ends what is queued or running with kUnavailable at the next step boundary and takes no more.
  void Stop();
  bool idle() const;     // nothing queued or running
  bool healthy() const;  // false once the runner has thrown

  MetricsSnapshot metrics() const;
  const EngineLimits& limits() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace palu
