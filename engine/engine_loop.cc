// The engine thread.
#include <chrono>
#include <exception>
#include <string>
#include <utility>

#include "engine/engine_impl.h"

namespace palu {
namespace {

using Clock = RequestTiming::Clock;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// Empty unless asked for.
std::vector<float> TakeEmbedding(RequestState* request) {
  std::vector<float> embedding = std::move(request->pooled);
  for (float& value : embedding) value /= static_cast<float>(request->pooled_tokens);
  return embedding;
}

}  // namespace

void Engine::Impl::Loop() {
  for (;;) {
    if (!scheduler_.has_work()) queue_.WaitForWork();
    const bool go_on = queue_.TakeAll(&incoming_);
    for (auto& request : incoming_) scheduler_.Add(std::move(request));
    incoming_.clear();
    if (!go_on) break;
    scheduler_.Reap(Clock::now(), &events_);
    Deliver();
    if (scheduler_.has_work()) Step();
  }
  scheduler_.EndAll(Clock::now(), {StatusCode::kUnavailable, "the server is shutting down", {}},
                    EndReason::kShutdown, &events_);
  Deliver();
}

void Engine::Impl::Step() {
  const auto begin = Clock::now();
  scheduler_.Schedule(begin, &plan_);
  BuildStepBatch(plan_, limits_.block_tokens, &batch_);
  queue_.ReleasePlaces(plan_.newly_started);
  UpdateGauges();
  CountStep(Seconds(Clock::now() - begin));
  StepResult result;
  try {
    result = runner_->Run(batch_);
  } catch (const std::exception& error) {
    Fail(error.what());
    return;
  }
  const StepRunner::PhaseTimes times = runner_->last_times();
  const auto done = Clock::now();
  scheduler_.Commit(done, plan_, std::move(result), &events_);
  Deliver();
  metrics_.step_phase_seconds[static_cast<int>(StepPhase::kUpload)].Observe(times.upload);
  metrics_.step_phase_seconds[static_cast<int>(StepPhase::kForward)].Observe(times.forward);
  metrics_.step_phase_seconds[static_cast<int>(StepPhase::kSample)].Observe(times.sample);
  metrics_.step_phase_seconds[static_cast<int>(StepPhase::kCommit)].Observe(
      Seconds(Clock::now() - done));
}

void Engine::Impl::Fail(const std::string& what) {
  healthy_ = false;
  queue_.Close();
  // What slipped in before the queue was closed fails too.
  queue_.TakeAll(&incoming_);
  for (auto& request : incoming_) scheduler_.Add(std::move(request));
  incoming_.clear();
  scheduler_.EndAll(Clock::now(), {StatusCode::kInternal, "the device has failed: " + what, {}},
                    EndReason::kError, &events_);
  Deliver();
}

void Engine::Impl::CountStep(double schedule_seconds) {
  metrics_.preemptions += plan_.preemptions;
  metrics_.prefix_queries_tokens += plan_.prefix_query_tokens;
  metrics_.prefix_hits_tokens += plan_.prefix_hit_tokens;
  metrics_.iteration_tokens.Observe(plan_.num_tokens);
  metrics_.batch_tokens.Observe(plan_.num_tokens);
  metrics_.batch_sequences.Observe(static_cast<double>(plan_.sequences.size()));
  metrics_.step_phase_seconds[static_cast<int>(StepPhase::kSchedule)].Observe(schedule_seconds);
}

void Engine::Impl::UpdateGauges() {
  metrics_.requests_running = scheduler_.num_running();
  metrics_.requests_waiting = scheduler_.num_waiting();
  metrics_.blocks_used = scheduler_.blocks_used();
  metrics_.blocks_cached = scheduler_.blocks_cached();
}

void Engine::Impl::Deliver() {
  metrics_.generation_tokens += events_.generated_tokens;
  for (const double seconds : events_.first_token_seconds) {
    metrics_.time_to_first_token.Observe(seconds);
  }
  for (const double seconds : events_.inter_token_seconds) {
    metrics_.inter_token_latency.Observe(seconds);
  }
  for (const StepEvents::Ended& ended : events_.ended) CountEnded(ended);
  for (const RequestState* request : events_.prompts_done) {
    metrics_.prompt_tokens += request->request.prompt.size();
  }
  // Gauges before publications: whoever has seen a request end finds it gone from them.
  UpdateGauges();
  for (RequestState* request : events_.prompts_done) {
    request->stream->PublishPrompt(static_cast<int>(request->request.prompt.size()),
                                   request->cached_tokens, std::move(request->prompt_logprobs),
                                   TakeEmbedding(request));
  }
  for (auto& [request, delta] : events_.deltas) request->stream->Publish(std::move(delta));
  unfinished_ -= static_cast<int>(events_.ended.size());
  for (StepEvents::Ended& ended : events_.ended) {
    ended.request->stream->Finish(std::move(ended.status), ended.request->timing);
  }
  events_.Clear();
}

void Engine::Impl::CountEnded(const StepEvents::Ended& ended) {
  const RequestState& request = *ended.request;
  const RequestTiming& t = request.timing;
  if (!request.started()) queue_.ReleasePlaces(1);
  switch (ended.reason) {
    case EndReason::kStop:
      ++metrics_.finished_stop;
      break;
    case EndReason::kLength:
      ++metrics_.finished_length;
      break;
    case EndReason::kError:
      ++metrics_.finished_error;
      return;
    default:
      ++metrics_.finished_abort;
      ++(ended.reason == EndReason::kClient       ? metrics_.cancelled_client
         : ended.reason == EndReason::kDeadline   ? metrics_.cancelled_deadline
         : ended.reason == EndReason::kSlowReader ? metrics_.cancelled_slow_reader
                                                  : metrics_.cancelled_shutdown);
      return;
  }
  metrics_.e2e_latency.Observe(Seconds(t.finished - t.arrival));
  metrics_.request_prompt_tokens.Observe(static_cast<double>(request.request.prompt.size()));
  metrics_.request_generation_tokens.Observe(request.generated());
  int longest = 0;
  for (const auto& sequence : request.sequences) longest = std::max(longest, sequence->generated());
  metrics_.request_max_generation_tokens.Observe(longest);
  if (!request.started()) return;
  metrics_.queue_time.Observe(Seconds(t.scheduled - t.arrival));
  metrics_.inference_time.Observe(Seconds(t.finished - t.scheduled));
  if (t.first_token == Clock::time_point{}) return;
  metrics_.prefill_time.Observe(Seconds(t.first_token - t.scheduled));
  const double decode = Seconds(t.finished - t.first_token);
  metrics_.decode_time.Observe(decode);
  // Of the longest choice: the others were made beside it.
  if (longest > 1) metrics_.time_per_output_token.Observe(decode / (longest - 1));
}

}  // namespace palu
