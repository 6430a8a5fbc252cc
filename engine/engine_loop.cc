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

bool IsReapable(const RequestState& request) {
  if (request.stream->cancelled()) return true;
  for (int choice = 0; choice < request.request.n; ++choice) {
    if (request.stream->choice_stopped(choice)) return true;
  }
  return false;
}

}  // namespace

// While a step runs, the next one is planned and what the step before has made is published. Only
// what depends on the tokens that the device draws lies between two steps: Commit, Settle and the
// batch.
void Engine::Impl::Loop() {
  Step* next = &steps_[0];
  Step* under_way = nullptr;
  for (;;) {
    if (under_way == nullptr && !scheduler_.has_work()) queue_.WaitForWork();
    const bool go_on = TakeIn();
    if (go_on) Plan(next);
    if (under_way != nullptr && !Finish(under_way)) {
      under_way = nullptr;
      continue;
    }
    under_way = nullptr;
    if (!go_on) break;
    ReapIfAsked();
    if (Start(next)) {
      under_way = next;
      next = &steps_[next == &steps_[0] ? 1 : 0];
    }
    Deliver();
    if (under_way != nullptr) CountStep(*under_way);
  }
  scheduler_.EndAll(Clock::now(), {StatusCode::kUnavailable, "the server is shutting down", {}},
                    EndReason::kShutdown, &events_);
  Deliver();
}

// False once the engine is to stop.
bool Engine::Impl::TakeIn() {
  const bool go_on = queue_.TakeAll(&incoming_);
  for (auto& request : incoming_) {
    // Whoever cancelled it while it was in the queue has been looked for among the others only.
    if (IsReapable(*request)) *attention_ = true;
    scheduler_.Add(std::move(request));
  }
  incoming_.clear();
  return go_on;
}

void Engine::Impl::Plan(Step* step) {
  const auto begin = Clock::now();
  scheduler_.Schedule(begin, &step->plan);
  step->schedule_seconds = Seconds(Clock::now() - begin);
}

// Takes the results of the step under way; false if the device failed.
bool Engine::Impl::Finish(Step* step) {
  StepWorker::Done done;
  try {
    done = worker_.Wait();
  } catch (const std::exception& error) {
    Fail(error.what());
    return false;
  }
  const auto now = Clock::now();
  const auto observe = [this](StepPhase phase, double seconds) {
    metrics_.step_phase_seconds[static_cast<int>(phase)].Observe(seconds);
  };
  scheduler_.ObserveStep(step->plan, done.seconds);
  scheduler_.Commit(now, step->plan, std::move(done.result), &events_);
  observe(StepPhase::kCommit, Seconds(Clock::now() - now));
  observe(StepPhase::kUpload, done.times.upload);
  observe(StepPhase::kForward, done.times.forward);
  observe(StepPhase::kSample, done.times.sample);
  metrics_.step_gap_seconds.Observe(done.idle_seconds);
  return true;
}

void Engine::Impl::ReapIfAsked() {
  const auto now = Clock::now();
  if (!attention_->exchange(false, std::memory_order_acquire) && now < scheduler_.next_deadline()) {
    return;
  }
  scheduler_.Reap(now, &events_);
}

// False if there is nothing to run.
bool Engine::Impl::Start(Step* step) {
  const auto begin = Clock::now();
  // Who came while the step before ran need not wait for the one after this.
  TakeIn();
  if (!scheduler_.Settle(begin, &step->plan)) return false;
  BuildStepBatch(step->plan, limits_.block_tokens, &step->batch);
  worker_.Launch(&step->batch);
  scheduler_.Advance(&step->plan);
  step->schedule_seconds += Seconds(Clock::now() - begin);
  queue_.ReleasePlaces(step->plan.newly_started, step->plan.newly_started_tokens);
  return true;
}

void Engine::Impl::Fail(const std::string& what) {
  healthy_ = false;
  queue_.Close();
  // What slipped in before the queue was closed fails too.
  TakeIn();
  scheduler_.EndAll(Clock::now(), {StatusCode::kInternal, "the device has failed: " + what, {}},
                    EndReason::kError, &events_);
  Deliver();
}

void Engine::Impl::CountStep(const Step& step) {
  const StepPlan& plan = step.plan;
  metrics_.preemptions += plan.preemptions;
  metrics_.preemptions_swapped += plan.swaps;
  metrics_.prefix_queries_tokens += plan.prefix_query_tokens;
  metrics_.prefix_hits_tokens += plan.prefix_hit_tokens;
  metrics_.attended_tokens += static_cast<uint64_t>(plan.attended_tokens);
  metrics_.iteration_tokens.Observe(plan.num_tokens);
  metrics_.batch_tokens.Observe(plan.num_tokens);
  metrics_.batch_sequences.Observe(static_cast<double>(plan.sequences.size()));
  metrics_.step_phase_seconds[static_cast<int>(StepPhase::kSchedule)].Observe(
      step.schedule_seconds);
  CountCache();
}

void Engine::Impl::CountCache() {
  const PrefixCache::Counters now = scheduler_.cache_counters();
  metrics_.host_stored_blocks += now.stored - counted_.stored;
  metrics_.host_loaded_blocks += now.loaded - counted_.loaded;
  metrics_.cache_dropped_blocks += now.dropped - counted_.dropped;
  counted_ = now;
}

void Engine::Impl::UpdateGauges() {
  metrics_.requests_running = scheduler_.num_running();
  metrics_.requests_waiting = scheduler_.num_waiting();
  metrics_.blocks_used = scheduler_.blocks_used();
  metrics_.blocks_cached = scheduler_.blocks_cached();
  metrics_.host_blocks_used = scheduler_.host_blocks_used();
  metrics_.chunk_tokens = scheduler_.cost().chunk_tokens();
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
  for (auto& [request, delta] : events_.deltas) {
    request->stream->Publish(std::move(delta));
    if (request->stream->unread_tokens() > options_.max_unread_tokens) *attention_ = true;
  }
  unfinished_ -= static_cast<int>(events_.ended.size());
  for (StepEvents::Ended& ended : events_.ended) {
    ended.request->stream->Finish(std::move(ended.status), ended.request->timing);
  }
  events_.Clear();
}

void Engine::Impl::CountEnded(const StepEvents::Ended& ended) {
  const RequestState& request = *ended.request;
  const RequestTiming& t = request.timing;
  if (!request.started()) {
    queue_.ReleasePlaces(1, static_cast<int64_t>(request.request.prompt.size()));
  }
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
