// What the scheduler hands to the engine thread before and after a step.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "engine/request.h"
#include "engine/sequence.h"
#include "engine/status.h"
#include "engine/step_batch.h"

namespace palu {

// Who advances in a step; Sequence::scheduled says by how many tokens. Valid until Commit or
// EndAll.
struct StepPlan {
  std::vector<Sequence*> sequences;
  std::vector<std::pair<int32_t, int32_t>> block_copies;  // see StepBatch
  int num_tokens = 0;
  int preemptions = 0;
  int newly_started = 0;  // requests that left the queue for good
  int prefix_query_tokens = 0, prefix_hit_tokens = 0;

  void Clear();
};

// Why a request ended.
enum class EndReason { kStop, kLength, kClient, kDeadline, kSlowReader, kShutdown, kError };

// What became of sequences and requests, to be counted and published. The requests pointed to live
// until the next call of the scheduler or, once ended, as long as `ended`.
struct StepEvents {
  struct Ended {
    std::unique_ptr<RequestState> request;
    Status status;
    EndReason reason = EndReason::kStop;
  };
  std::vector<RequestState*> prompts_done;
  std::vector<std::pair<RequestState*, OutputDelta>> deltas;
  std::vector<Ended> ended;
  std::vector<double> first_token_seconds, inter_token_seconds;
  int generated_tokens = 0;

  void Clear();
};

// The prompt positions [first, second) whose final hidden state is pooled in this step.
std::pair<int, int> PooledRows(const Sequence& sequence);
// The prompt positions [first, second) whose next token is scored in this step.
std::pair<int, int> PromptRows(const Sequence& sequence);
// True if this step reaches the sequence's last token, so that it and its followers draw one.
bool DrawsToken(const Sequence& sequence);

// Flattens a plan; the rows are, per sequence in order, its prompt rows, then its own draw and
// those of its followers. At most one row per token and one more per follower.
void BuildStepBatch(const StepPlan& plan, int block_tokens, StepBatch* batch);

}  // namespace palu
