#include "tools/bench/offline_bench.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <stdexcept>
#include <utility>

namespace palu::bench {
namespace {

using Clock = RequestTiming::Clock;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

Request MakeRequest(const OfflineOptions& options, int vocabulary, std::mt19937* random) {
  std::uniform_int_distribution<int32_t> token(0, vocabulary - 1);
  Request request;
  for (int i = 0; i < options.prompt_tokens; ++i) request.prompt.push_back(token(*random));
  request.sampling.max_tokens = options.output_tokens;
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  return request;
}

// Waits for the end of one stream; the others go on meanwhile, their deltas coalesce.
RequestTiming Finish(Engine* engine, OutputStream* stream, OfflineResult* result) {
  for (;;) {
    stream->Wait(std::chrono::milliseconds(20));
    result->most_running = std::max(result->most_running, engine->metrics().requests_running);
    const OutputBatch batch = stream->Drain();
    if (!batch.finished) continue;
    if (!batch.status.ok()) throw std::runtime_error("a request failed: " + batch.status.message);
    return batch.timing;
  }
}

}  // namespace

OfflineResult ServeOffline(Engine* engine, const OfflineOptions& options) {
  std::mt19937 random(1);
  std::vector<Request> requests;
  for (int i = 0; i < options.requests; ++i) {
    requests.push_back(MakeRequest(options, engine->limits().vocab_size, &random));
  }
  OfflineResult result;
  const auto start = Clock::now();
  std::vector<RequestHandle> handles;
  for (Request& request : requests) {
    auto handle = engine->Submit(std::move(request));
    if (!handle) throw std::runtime_error("a request was refused: " + handle.error().message);
    handles.push_back(std::move(*handle));
  }
  for (RequestHandle& handle : handles) {
    const RequestTiming timing = Finish(engine, &handle.stream(), &result);
    result.first_token_seconds.push_back(Seconds(timing.first_token - timing.arrival));
    result.inter_token_seconds.push_back(Seconds(timing.finished - timing.first_token) /
                                         std::max(options.output_tokens - 1, 1));
  }
  result.seconds = Seconds(Clock::now() - start);
  std::sort(result.first_token_seconds.begin(), result.first_token_seconds.end());
  std::sort(result.inter_token_seconds.begin(), result.inter_token_seconds.end());
  const MetricsSnapshot metrics = engine->metrics();
  result.preemptions = metrics.preemptions;
  const auto phase = [&](StepPhase p) {
    return metrics.step_phase_seconds[static_cast<size_t>(p)].sum;
  };
  result.schedule = phase(StepPhase::kSchedule);
  result.upload = phase(StepPhase::kUpload);
  result.forward = phase(StepPhase::kForward);
  result.sample = phase(StepPhase::kSample);
  result.commit = phase(StepPhase::kCommit);
  return result;
}

}  // namespace palu::bench
