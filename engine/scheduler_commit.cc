// What follows from a step: tokens appended, choices and requests ended.
#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/scheduler.h"
#include "kernels/check.h"

namespace palu {
namespace {

double Seconds(RequestTiming::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

void Scheduler::Advance(StepPlan* plan) {
  plan->entries.clear();
  plan->draws.clear();
  plan->num_decodes = 0;
  plan->attended_tokens = 0;
  for (Sequence* sequence : plan->sequences) AdvanceSequence(sequence, plan);
}

void Scheduler::AdvanceSequence(Sequence* sequence, StepPlan* plan) {
  RequestState* request = sequence->request;
  const auto [begin, end] = PromptRows(*sequence);
  const bool draws = DrawsToken(*sequence);
  StepPlan::Entry entry;
  entry.sequence = sequence;
  entry.prompt_rows = end - begin;
  const auto [first_pooled, end_pooled] = PooledRows(*sequence);
  entry.pooled_rows = end_pooled - first_pooled;
  if (sequence->scheduled == 1) ++plan->num_decodes;
  plan->attended_tokens += AttendedTokens(*sequence);
  entry.first_draw = static_cast<int>(plan->draws.size());
  sequence->computed += std::exchange(sequence->scheduled, 0);
  // Whoever finds these blocks from now on reads them after the device has written them.
  CacheFullBlocks(sequence);
  entry.whole = sequence->remaining() == 0;
  if (entry.whole) {
    if (request->prefiller == sequence) request->prefiller = nullptr;
    const std::vector<Sequence*> followers = std::exchange(sequence->followers, {});
    for (Sequence* follower : followers) Fork(sequence, follower);
    if (draws) {
      plan->draws.push_back(sequence);
      plan->draws.insert(plan->draws.end(), followers.begin(), followers.end());
      entry.num_draws = 1 + static_cast<int>(followers.size());
      for (int i = 0; i < entry.num_draws; ++i) plan->draws[entry.first_draw + i]->pending = 1;
      for (Sequence* follower : followers) FreeOutOfWindow(follower);
    }
  }
  FreeOutOfWindow(sequence);
  plan->entries.push_back(entry);
}

void Scheduler::Commit(TimePoint now, const StepPlan& plan, StepResult result, StepEvents* events) {
  size_t row = 0, pooled = 0;
  for (const StepPlan::Entry& entry : plan.entries) {
    pooled = CommitPooled(entry, pooled, result);
    row = CommitEntry(plan, entry, row, now, &result, events);
  }
  PALU_CHECK(row == result.tokens.size() && pooled == result.hidden.size());
}

size_t Scheduler::CommitPooled(const StepPlan::Entry& entry, size_t row, const StepResult& result) {
  RequestState* request = entry.sequence->request;
  for (const size_t end = row + entry.pooled_rows; row < end; ++row) {
    const std::vector<float>& hidden = result.hidden[row];
    request->pooled.resize(hidden.size());
    for (size_t i = 0; i < hidden.size(); ++i) request->pooled[i] += hidden[i];
    ++request->pooled_tokens;
  }
  return row;
}

size_t Scheduler::CommitEntry(const StepPlan& plan, const StepPlan::Entry& entry, size_t row,
                              TimePoint now, StepResult* result, StepEvents* events) {
  RequestState* request = entry.sequence->request;
  const size_t rows = entry.prompt_rows + entry.num_draws;
  PALU_CHECK(row + rows <= result->tokens.size());
  auto next = result->tokens.begin() + static_cast<std::ptrdiff_t>(row);
  for (int i = 0; i < entry.prompt_rows; ++i) {
    request->prompt_logprobs.push_back(std::move(*next++));
  }
  if (!entry.whole) return row + rows;
  if (!std::exchange(request->prompt_done, true)) events->prompts_done.push_back(request);
  waiting_.Charge(request, entry.num_draws);
  for (int i = 0; i < entry.num_draws; ++i) {
    AppendToken(plan.draws[entry.first_draw + i], std::move(*next++), now, events);
  }
  if (entry.num_draws == 0) FinishScored(request, now, events);
  return row + rows;
}

void Scheduler::FinishScored(RequestState* request, TimePoint now, StepEvents* events) {
  for (int choice = 0, n = request->request.n; choice < n; ++choice) {
    Sequence* scored = request->sequences[choice].get();
    if (scored->state == Sequence::State::kFinished) continue;
    const bool last = request->unfinished == 1;
    OutputDelta delta;
    delta.choice = choice;
    delta.finish = FinishReason::kLength;
    FinishSequence(scored, std::move(delta), now, events);
    if (last) return;
  }
}

void Scheduler::ObserveStep(const StepPlan& plan, double seconds) {
  cost_.Observe(plan.num_tokens, plan.num_decodes, plan.chunk_tokens == 0, seconds);
  if (prefix_cache_) prefix_cache_->SetLeastReuse(cost_.LeastReuse(block_tokens_));
}

void Scheduler::Fork(Sequence* leader, Sequence* follower) {
  follower->leader = nullptr;
  follower->tables = leader->tables;
  for (const BlockTable& table : follower->tables) {
    for (int i = table.first_block; i < table.size(); ++i) allocator_.AddRef(table.blocks[i]);
  }
  follower->computed = leader->computed;
  follower->cached = leader->cached;
  follower->hashed_blocks = leader->hashed_blocks;
  follower->hashed_node = leader->hashed_node;
  InsertRunning(follower);
}

void Scheduler::AppendToken(Sequence* sequence, OutputToken token, TimePoint now,
                            StepEvents* events) {
  RequestState* request = sequence->request;
  const SamplingParams& params = request->request.sampling;
  const int32_t id = token.token;
  const bool complete = sequence->constraint != nullptr && sequence->constraint->must_stop();
  sequence->pending = 0;
  const bool may_stop = sequence->generated() >= params.min_tokens;
  sequence->tokens.push_back(id);
  ++events->generated_tokens;
  if (request->timing.first_token == TimePoint{}) {
    request->timing.first_token = now;
    events->first_token_seconds.push_back(Seconds(now - request->timing.arrival));
  }
  if (sequence->last_token != TimePoint{}) {
    events->inter_token_seconds.push_back(Seconds(now - sequence->last_token));
  }
  sequence->last_token = now;

  OutputDelta delta;
  delta.choice = sequence->choice;
  delta.tokens.push_back(std::move(token));
  if (complete || (may_stop && ((!params.ignore_eos && Contains(eos_token_ids_, id)) ||
                                Contains(params.stop_token_ids, id)))) {
    delta.finish = FinishReason::kStop;
    delta.stopped_by_token = true;
  } else if (sequence->generated() >= params.max_tokens) {
    delta.finish = FinishReason::kLength;
  }
  if (delta.finish) {
    FinishSequence(sequence, std::move(delta), now, events);
  } else {
    if (sequence->constraint != nullptr) {
      sequence->constraint->Accept(id, params.max_tokens - sequence->generated());
    }
    events->deltas.emplace_back(request, std::move(delta));
  }
}

void Scheduler::FinishSequence(Sequence* sequence, OutputDelta delta, TimePoint now,
                               StepEvents* events) {
  RequestState* request = sequence->request;
  if (sequence->leader != nullptr) {
    std::erase(sequence->leader->followers, sequence);
    sequence->leader = nullptr;
    --slots_used_;
  } else if (sequence->state == Sequence::State::kRunning) {
    DetachFollowers(sequence);
    RemoveRunning(sequence);
    ReleaseBlocks(sequence);
  } else {
    waiting_.Erase(sequence);
    if (blocked_ == sequence) blocked_ = nullptr;
  }
  DropHostBlocks(sequence);
  sequence->state = Sequence::State::kFinished;
  sequence->scheduled = 0;
  request->any_length |= delta.finish == FinishReason::kLength;
  events->deltas.emplace_back(request, std::move(delta));
  if (--request->unfinished == 0) {
    TakeEnded(request, {}, request->any_length ? EndReason::kLength : EndReason::kStop, now,
              events);
  }
}

void Scheduler::EndRequest(RequestState* request, Status status, EndReason reason, TimePoint now,
                           StepEvents* events) {
  // Held open, so that the last choice does not end the request as finished.
  ++request->unfinished;
  for (const auto& sequence : request->sequences) {
    if (sequence->state == Sequence::State::kFinished) continue;
    OutputDelta delta;
    delta.choice = sequence->choice;
    delta.finish = reason == EndReason::kError ? FinishReason::kError : FinishReason::kCancelled;
    FinishSequence(sequence.get(), std::move(delta), now, events);
  }
  TakeEnded(request, std::move(status), reason, now, events);
}

void Scheduler::EndAll(TimePoint now, const Status& status, EndReason reason, StepEvents* events) {
  while (!requests_.empty()) EndRequest(requests_.back().get(), status, reason, now, events);
}

void Scheduler::TakeEnded(RequestState* request, Status status, EndReason reason, TimePoint now,
                          StepEvents* events) {
  request->timing.finished = now;
  waiting_.RequestEnded(request);
  const size_t place = request->place;
  std::unique_ptr<RequestState> taken = std::move(requests_[place]);
  if (place + 1 != requests_.size()) {
    requests_[place] = std::move(requests_.back());
    requests_[place]->place = place;
  }
  requests_.pop_back();
  events->ended.push_back({std::move(taken), std::move(status), reason});
}

}  // namespace palu
