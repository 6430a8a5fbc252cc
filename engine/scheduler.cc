#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace palu {
namespace {

// Blocks left free by a start, so that those running do not run out at once.
constexpr int kWatermarkDivisor = 100;

bool IsFresh(const Sequence& sequence) {
  return sequence.state == Sequence::State::kWaiting && sequence.generated() == 0;
}

}  // namespace

Scheduler::Scheduler(const EngineOptions& options, const EngineLimits& limits)
    : max_running_(std::min(options.max_sequences, options.step_tokens)),
      step_tokens_(options.step_tokens),
      max_unread_tokens_(options.max_unread_tokens),
      block_tokens_(limits.block_tokens),
      eos_token_ids_(limits.eos_token_ids),
      allocator_(limits.num_blocks) {
  PALU_CHECK(max_running_ >= 1);
  if (options.prefix_caching) {
    prefix_cache_ = std::make_unique<PrefixCache>(&allocator_, block_tokens_);
  }
  running_.reserve(max_running_);
}

void Scheduler::Add(std::unique_ptr<RequestState> request) {
  request->arrival_order = next_arrival_++;
  request->place = requests_.size();
  for (const auto& sequence : request->sequences) waiting_.insert(sequence.get());
  requests_.push_back(std::move(request));
}

void Scheduler::Reap(TimePoint now, StepEvents* events) {
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
  for (Sequence* sequence : running_) {
    if (sequence->remaining() > 1) ScheduleChunk(sequence, plan);
  }
  // What was just preempted would come back at once and be preempted again.
  while (plan->preemptions == 0 && plan->num_tokens < step_tokens_ && !waiting_.empty() &&
         slots_used_ < max_running_) {
    if (!TryStart(*waiting_.begin(), now, plan)) break;
  }
  PALU_CHECK(!plan->sequences.empty() || requests_.empty());
}

void Scheduler::ScheduleDecodes(StepPlan* plan) {
  // Those preempted are at the end, behind what is already planned.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence* sequence = running_[i];
    if (sequence->remaining() != 1) continue;
    while (!MakeWritable(sequence, plan)) {
      Sequence* victim = running_.back();
      PALU_CHECK(running_.size() > 1);
      Preempt(victim);
      ++plan->preemptions;
      if (victim == sequence) return;
    }
    ScheduleChunk(sequence, plan);
  }
}

void Scheduler::ScheduleChunk(Sequence* sequence, StepPlan* plan) {
  sequence->scheduled = std::min(sequence->remaining(), step_tokens_ - plan->num_tokens);
  if (sequence->scheduled == 0) return;
  plan->sequences.push_back(sequence);
  plan->num_tokens += sequence->scheduled;
}

bool Scheduler::TryStart(Sequence* sequence, TimePoint now, StepPlan* plan) {
  RequestState* request = sequence->request;
  if (request->prefiller != nullptr && IsFresh(*sequence)) {
    AttachFollowers(request->prefiller);
    return true;
  }
  const bool alone = running_.empty();
  if (!alone && sequence == blocked_ && AvailableBlocks() <= blocked_available_) return false;
  PrefixCache::Match match = TakePrefix(*sequence);
  const int hits = static_cast<int>(match.blocks.size());
  const int needed = BlocksForTokens(sequence->length(), block_tokens_) - hits;
  int wanted = needed;
  if (!alone) {
    wanted += std::max(1, allocator_.num_blocks() / kWatermarkDivisor);
    if (IsFresh(*sequence)) wanted += request->unfinished - 1;
  }
  sequence->table.blocks = std::move(match.blocks);
  if (wanted > AvailableBlocks()) {
    PALU_CHECK(!alone);
    ReleaseBlocks(sequence);
    blocked_ = sequence;
    blocked_available_ = AvailableBlocks();
    return false;
  }
  for (int i = 0; i < needed; ++i) sequence->table.blocks.push_back(AllocateBlock());
  sequence->hashed_blocks = hits;
  sequence->hashed_node = match.node;
  sequence->computed = sequence->cached = hits * block_tokens_;
  waiting_.erase(sequence);
  ++slots_used_;
  if (IsFresh(*sequence)) AttachFollowers(sequence);
  InsertRunning(sequence);
  if (!request->started()) {
    request->timing.scheduled = now;
    request->cached_tokens = sequence->cached;
    ++plan->newly_started;
    plan->prefix_query_tokens += sequence->prompt;
    plan->prefix_hit_tokens += sequence->cached;
  }
  ScheduleChunk(sequence, plan);
  return true;
}

void Scheduler::AttachFollowers(Sequence* leader) {
  leader->request->prefiller = leader;
  for (const auto& sibling : leader->request->sequences) {
    if (slots_used_ >= max_running_) return;
    if (sibling.get() == leader || !IsFresh(*sibling)) continue;
    waiting_.erase(sibling.get());
    sibling->state = Sequence::State::kRunning;
    sibling->leader = leader;
    leader->followers.push_back(sibling.get());
    ++slots_used_;
  }
}

bool Scheduler::MakeWritable(Sequence* sequence, StepPlan* plan) {
  auto& blocks = sequence->table.blocks;
  const size_t index = sequence->computed / block_tokens_;
  if (index < blocks.size() && allocator_.ref_count(blocks[index]) == 1) return true;
  const int32_t block = AllocateBlock();
  if (block < 0) return false;
  if (index == blocks.size()) {
    blocks.push_back(block);
    return true;
  }
  plan->block_copies.emplace_back(blocks[index], block);
  ReleaseBlock(blocks[index]);
  blocks[index] = block;
  return true;
}

void Scheduler::Preempt(Sequence* sequence) {
  DetachFollowers(sequence);
  RemoveRunning(sequence);
  ReleaseBlocks(sequence);
  sequence->computed = sequence->cached = 0;
  sequence->state = Sequence::State::kWaiting;
  waiting_.insert(sequence);
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
    waiting_.insert(follower);
    --slots_used_;
  }
  leader->followers.clear();
}

}  // namespace palu
