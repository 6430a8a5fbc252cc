#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace palu {
namespace {

// The token that it is drawing is its last, whatever it may be.
bool EndsWithStepUnderWay(const Sequence& sequence) {
  return sequence.pending > 0 &&
         sequence.generated() >= sequence.request->request.sampling.max_tokens;
}

}  // namespace

Scheduler::Scheduler(const EngineOptions& options, const EngineLimits& limits)
    : max_running_(std::min(options.max_sequences, options.step_tokens)),
      step_tokens_(options.step_tokens),
      max_unread_tokens_(options.max_unread_tokens),
      block_tokens_(limits.block_tokens),
      demand_(limits.demand()),
      eos_token_ids_(limits.eos_token_ids),
      allocator_(limits.num_blocks),
      host_(options.prefix_caching ? limits.num_host_blocks : 0),
      group_blocks_(demand_.num_groups()),
      // Of a block of every group: copies are weighed against the tokens that these hold together.
      cost_(1e-3 * static_cast<double>(options.target_inter_token_ms), options.step_tokens,
            limits.block_copy_seconds * demand_.num_groups()),
      waiting_(options, options.step_tokens) {
  PALU_CHECK(max_running_ >= 1);
  PALU_CHECK(!demand_.any_step_by_step() || demand_.chunk_tokens >= step_tokens_);
  if (options.prefix_caching) {
    PrefixCache::Options cache;
    cache.block_tokens = block_tokens_;
    cache.windows = limits.group_windows;
    cache.format_key = limits.cache_format_key;
    if (host_.num_blocks() > 0) {
      cache.host = &host_;
      cache.moves = &moves_;
    }
    prefix_cache_ = std::make_unique<PrefixCache>(&allocator_, cache);
  }
  running_.reserve(max_running_);
}

void Scheduler::Add(std::unique_ptr<RequestState> request) {
  request->arrival_order = next_arrival_++;
  request->place = requests_.size();
  waiting_.RequestAdded(request.get());
  for (const auto& sequence : request->sequences) {
    sequence->tables.resize(demand_.num_groups());
    waiting_.Insert(sequence.get());
  }
  if (const auto& deadline = request->request.deadline) {
    next_deadline_ = std::min(next_deadline_, *deadline);
  }
  requests_.push_back(std::move(request));
}

void Scheduler::Reap(TimePoint now, StepEvents* events) {
  next_deadline_ = TimePoint::max();
  // Backwards, because an ended request's place is taken by the last one.
  for (size_t i = requests_.size(); i-- > 0;) {
    RequestState* request = requests_[i].get();
    const auto& deadline = request->request.deadline;
    if (request->stream->cancelled()) {
      EndRequest(request, {StatusCode::kCancelled, "cancelled by the client", {}},
                 EndReason::kClient, now, events);
    } else if (deadline && *deadline <= now) {
      EndRequest(request, {StatusCode::kDeadlineExceeded, "the request's deadline has passed", {}},
                 EndReason::kDeadline, now, events);
    } else if (request->stream->unread_tokens() > max_unread_tokens_) {
      EndRequest(request,
                 {StatusCode::kCancelled,
                  "more than " + std::to_string(max_unread_tokens_) + " tokens were left unread",
                  {}},
                 EndReason::kSlowReader, now, events);
    } else {
      if (deadline) next_deadline_ = std::min(next_deadline_, *deadline);
      ReapChoices(request, now, events);
    }
  }
}

void Scheduler::ReapChoices(RequestState* request, TimePoint now, StepEvents* events) {
  // The last one ends the request, and with it the sequences.
  for (int choice = 0, n = request->request.n; choice < n; ++choice) {
    Sequence* sequence = request->sequences[choice].get();
    if (sequence->state == Sequence::State::kFinished) continue;
    if (!request->stream->choice_stopped(choice)) continue;
    const bool last = request->unfinished == 1;
    OutputDelta delta;
    delta.choice = choice;
    delta.finish = FinishReason::kStop;
    FinishSequence(sequence, std::move(delta), now, events);
    if (last) return;
  }
}

void Scheduler::Schedule(TimePoint now, StepPlan* plan) {
  plan->Clear();
  ScheduleDecodes(plan);
  plan->chunk_tokens = step_tokens_ - plan->num_tokens;
  if (plan->num_tokens > 0) {
    plan->chunk_tokens = std::min(plan->chunk_tokens, cost_.chunk_tokens());
  }
  ScheduleChunks(plan);
  StartMore(now, plan);
}

bool Scheduler::Settle(TimePoint now, StepPlan* plan) {
  const size_t planned = plan->sequences.size();
  // Requests that ended live until the events about them are delivered, so these can be looked at.
  std::erase_if(plan->sequences, [](const Sequence* sequence) {
    return sequence->state != Sequence::State::kRunning || sequence->scheduled == 0;
  });
  if (plan->sequences.size() < planned) {
    const int before = plan->num_tokens;
    plan->num_tokens = 0;
    for (const Sequence* sequence : plan->sequences) plan->num_tokens += sequence->scheduled;
    plan->chunk_tokens =
        std::min(step_tokens_ - plan->num_tokens, plan->chunk_tokens + before - plan->num_tokens);
  }
  StartMore(now, plan);
  if (plan->sequences.empty()) return false;
  plan->block_moves.swap(moves_);
  return true;
}

void Scheduler::StartMore(TimePoint now, StepPlan* plan) {
  // What was just preempted would come back at once and be preempted again.
  while (plan->preemptions == 0 && plan->chunk_tokens > 0 && !waiting_.empty() &&
         slots_used_ < max_running_) {
    if (!TryStart(waiting_.Front(), now, plan)) break;
  }
}

void Scheduler::ScheduleDecodes(StepPlan* plan) {
  // Those preempted are at the end, behind what is already planned.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence* sequence = running_[i];
    if (sequence->remaining() != 1 || EndsWithStepUnderWay(*sequence)) continue;
    while (!MakeWritable(sequence)) {
      Sequence* victim = running_.back();
      PALU_CHECK(running_.size() > 1);
      Preempt(victim, plan);
      if (victim == sequence) return;
    }
    sequence->scheduled = 1;
    plan->sequences.push_back(sequence);
    ++plan->num_tokens;
  }
}

void Scheduler::ScheduleChunks(StepPlan* plan) {
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence* sequence = running_[i];
    if (sequence->remaining() <= 1) continue;
    const int end = sequence->computed + std::min(sequence->remaining(), plan->chunk_tokens);
    while (!Cover(sequence, end)) {
      Sequence* victim = running_.back();
      PALU_CHECK(running_.size() > 1);
      Preempt(victim, plan);
      if (victim == sequence) return;
    }
    ScheduleChunk(sequence, plan);
  }
}

void Scheduler::ScheduleChunk(Sequence* sequence, StepPlan* plan) {
  sequence->scheduled = std::min(sequence->remaining(), plan->chunk_tokens);
  if (sequence->scheduled == 0) return;
  plan->sequences.push_back(sequence);
  plan->num_tokens += sequence->scheduled;
  plan->chunk_tokens -= sequence->scheduled;
}

bool Scheduler::TryStart(Sequence* sequence, TimePoint now, StepPlan* plan) {
  RequestState* request = sequence->request;
  if (request->prefiller != nullptr && sequence->fresh()) {
    AttachFollowers(request->prefiller);
    return true;
  }
  if (!running_.empty() && sequence == blocked_ && AvailableBlocks() <= blocked_available_) {
    return false;
  }
  if (!TakeBlocks(sequence)) {
    PALU_CHECK(!running_.empty());
    blocked_ = sequence;
    blocked_available_ = AvailableBlocks();
    return false;
  }
  waiting_.Erase(sequence);
  ReserveLength(sequence);
  ++slots_used_;
  if (sequence->fresh()) AttachFollowers(sequence);
  InsertRunning(sequence);
  if (!request->started()) {
    request->timing.scheduled = now;
    request->cached_tokens = sequence->cached;
    ++plan->newly_started;
    plan->newly_started_tokens += sequence->prompt;
    plan->prefix_query_tokens += sequence->prompt;
    plan->prefix_hit_tokens += sequence->cached;
  }
  waiting_.Charge(request, sequence->remaining());
  ScheduleChunk(sequence, plan);
  return true;
}

// So that the steps in which it grows allocate nothing.
void Scheduler::ReserveLength(Sequence* sequence) const {
  const int tokens = sequence->prompt + sequence->request->request.sampling.max_tokens;
  sequence->tokens.reserve(static_cast<size_t>(tokens));
  for (BlockTable& table : sequence->tables) {
    table.blocks.reserve(static_cast<size_t>(BlocksForTokens(tokens, block_tokens_)));
  }
}

void Scheduler::AttachFollowers(Sequence* leader) {
  leader->request->prefiller = leader;
  for (const auto& sibling : leader->request->sequences) {
    if (slots_used_ >= max_running_) return;
    if (sibling.get() == leader || !sibling->fresh()) continue;
    waiting_.Erase(sibling.get());
    ReserveLength(sibling.get());
    DropHostBlocks(sibling.get());
    sibling->state = Sequence::State::kRunning;
    sibling->leader = leader;
    leader->followers.push_back(sibling.get());
    ++slots_used_;
  }
}

void Scheduler::Preempt(Sequence* sequence, StepPlan* plan) {
  ++plan->preemptions;
  sequence->scheduled = 0;  // Settle takes it out of the plan, where a chunk has pushed it out
  DetachFollowers(sequence);
  RemoveRunning(sequence);
  if (SwapOut(sequence)) ++plan->swaps;
  ReleaseBlocks(sequence);
  sequence->computed = sequence->cached = 0;
  sequence->state = Sequence::State::kWaiting;
  waiting_.Insert(sequence);
}

void Scheduler::InsertRunning(Sequence* sequence) {
  sequence->state = Sequence::State::kRunning;
  running_.insert(std::upper_bound(running_.begin(), running_.end(), sequence, ServedBefore()),
                  sequence);
}

void Scheduler::RemoveRunning(Sequence* sequence) {
  const auto place = std::lower_bound(running_.begin(), running_.end(), sequence, ServedBefore());
  PALU_CHECK(place != running_.end() && *place == sequence);
  running_.erase(place);
  --slots_used_;
}

void Scheduler::DetachFollowers(Sequence* leader) {
  if (leader->request->prefiller == leader) leader->request->prefiller = nullptr;
  for (Sequence* follower : leader->followers) {
    follower->leader = nullptr;
    follower->state = Sequence::State::kWaiting;
    waiting_.Insert(follower);
    --slots_used_;
  }
  leader->followers.clear();
}

}  // namespace palu
