// Which sequences advance by how many tokens, and which blocks they write.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "config/engine_config.h"
#include "engine/cache/block_allocator.h"
#include "engine/cache/prefix_cache.h"
#include "engine/engine.h"
#include "engine/sequence.h"
#include "engine/step_cost.h"
#include "engine/step_plan.h"
#include "engine/waiting_line.h"

namespace palu {

// Owns the unfinished requests and the block ids; touches no device. Engine thread only.
//
// A step: Schedule, Reap, Settle, build the batch, Advance, run it, Commit. Schedule may be called
// before the step before it is committed, so that planning overlaps with the device; everything
// between Reap and Advance must not. Settle then takes what has ended meanwhile out of the plan and
// fills it up. Blocks given away by a plan may still be used by the step under way, because the
// device works in order.
//
// Running sequences go first with one token each, then prefill chunks up to the step's token
// budget, then new starts. A sequence gets the blocks of all its tokens when it starts, but for
// layer groups that slide (BlockDemand), whose blocks prefill chunks take step by step. When
// decoding or these run out of blocks, the running sequence that is served last gives all of its
// blocks back. Full ones stay in the prefix cache as long as nobody needs them, and after that in
// the host tier; the last one goes to the host at once if that is cheaper than computing it anew.
// The first in order of service can therefore always go on: admission made sure that alone it fits
// the pool.
class Scheduler {
 public:
  using TimePoint = RequestTiming::Clock::time_point;

  // step_tokens and max_sequences are at least 1; no more than step_tokens sequences run at once.
  Scheduler(const EngineOptions& options, const EngineLimits& limits);

  void Add(std::unique_ptr<RequestState> request);
  // Ends what was cancelled, expired, is not read, or had a choice stopped by its reader.
  void Reap(TimePoint now, StepEvents* events);
  // Fills the plan. Without a step under way it is empty only if there is no request.
  void Schedule(TimePoint now, StepPlan* plan);
  // Drops from the plan what has ended since, and starts more if there is room. True if the plan is
  // to be run, whose moves the caller then has to make. No step may be under way.
  bool Settle(TimePoint now, StepPlan* plan);
  // Counts the settled plan as computed; its batch has been built.
  void Advance(StepPlan* plan);
  // Takes the results of the rows of an advanced plan's batch.
  void Commit(TimePoint now, const StepPlan& plan, StepResult result, StepEvents* events);
  // How long that plan's step took.
  void ObserveStep(const StepPlan& plan, double seconds);
  // Ends everything, also in the middle of a step.
  void EndAll(TimePoint now, const Status& status, EndReason reason, StepEvents* events);

  bool has_work() const { return !requests_.empty(); }
  int num_running() const { return slots_used_; }
  int num_waiting() const { return waiting_.size(); }
  int blocks_used() const;    // held by sequences
  int blocks_cached() const;  // held by the prefix cache only
  int host_blocks_used() const { return host_.num_blocks() - host_.num_free(); }
  PrefixCache::Counters cache_counters() const;
  const StepCost& cost() const { return cost_; }
  // The earliest deadline of all requests, or max.
  TimePoint next_deadline() const { return next_deadline_; }
  const BlockAllocator& allocator() const { return allocator_; }
  const BlockAllocator& host_allocator() const { return host_; }
  bool has_moves() const { return !moves_.empty(); }  // that no step has made yet

 private:
  // scheduler.cc
  void ReapChoices(RequestState* request, TimePoint now, StepEvents* events);
  void ScheduleDecodes(StepPlan* plan);
  void ScheduleChunks(StepPlan* plan);
  void ScheduleChunk(Sequence* sequence, StepPlan* plan);
  bool TryStart(Sequence* sequence, TimePoint now, StepPlan* plan);
  void StartMore(TimePoint now, StepPlan* plan);
  bool TakeBlocks(Sequence* sequence);
  void AttachFollowers(Sequence* leader);
  void Preempt(Sequence* sequence, StepPlan* plan);

  // scheduler_commit.cc
  size_t CommitEntry(const StepPlan& plan, const StepPlan::Entry& entry, size_t row, TimePoint now,
                     StepResult* result, StepEvents* events);
  size_t CommitPooled(const StepPlan::Entry& entry, size_t row, const StepResult& result);
  void FinishScored(RequestState* request, TimePoint now, StepEvents* events);
  void AdvanceSequence(Sequence* sequence, StepPlan* plan);
  void Fork(Sequence* leader, Sequence* follower);
  void AppendToken(Sequence* sequence, OutputToken token, TimePoint now, StepEvents* events);
  void FinishSequence(Sequence* sequence, OutputDelta delta, TimePoint now, StepEvents* events);
  void EndRequest(RequestState* request, Status status, EndReason reason, TimePoint now,
                  StepEvents* events);
  void TakeEnded(RequestState* request, Status status, EndReason reason, TimePoint now,
                 StepEvents* events);

  // scheduler_blocks.cc
  PrefixCache::Match TakePrefix(const Sequence& sequence);
  bool MakeWritable(Sequence* sequence);
  bool MakeWritable(BlockTable* table, size_t index);
  bool Cover(Sequence* sequence, int end);
  bool SwapOut(Sequence* sequence);
  bool RestoreLastBlocks(Sequence* sequence);
  void DropHostBlocks(Sequence* sequence);
  void FreeOutOfWindow(Sequence* sequence);
  int32_t AllocateBlock();
  int AvailableBlocks() const;
  void ReleaseBlock(int32_t block);
  void ReleaseBlocks(Sequence* sequence);
  void CacheFullBlocks(Sequence* sequence);

  void ReserveLength(Sequence* sequence) const;
  void InsertRunning(Sequence* sequence);
  void RemoveRunning(Sequence* sequence);
  void DetachFollowers(Sequence* leader);

  const int max_running_;
  const int step_tokens_;
  const int max_unread_tokens_;
  const int block_tokens_;
  const BlockDemand demand_;
  const std::vector<int32_t> eos_token_ids_;

  BlockAllocator allocator_;
  BlockAllocator host_;  // slots of the host tier
  std::vector<BlockMove> moves_;
  std::vector<int32_t> group_blocks_;          // one per group; scratch
  std::unique_ptr<PrefixCache> prefix_cache_;  // null: off
  StepCost cost_;

  uint64_t next_arrival_ = 0;
  std::vector<std::unique_ptr<RequestState>> requests_;  // in no order
  std::vector<Sequence*> running_;                       // in order of service; no followers
  WaitingLine waiting_;
  TimePoint next_deadline_ = TimePoint::max();
  int slots_used_ = 0;  // running_ and their followers
  // The head of waiting_ that found too few blocks, and how many were available: without more,
  // trying again would only look its prefix up again.
  const Sequence* blocked_ = nullptr;
  int blocked_available_ = 0;
};

}  // namespace palu
