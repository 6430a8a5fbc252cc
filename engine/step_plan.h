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
  // What Commit needs of a sequence that has gone on since.
  struct Entry {
    Sequence* sequence = nullptr;
    int prompt_rows = 0;
    int pooled_rows = 0;
    bool whole = false;  // nothing was left to compute
    int first_draw = 0, num_draws = 0;
  };
  std::vector<Sequence*> sequences;
  std::vector<BlockMove> block_moves;  // see StepBatch
  std::vector<Entry> entries;          // set by Advance, as sequences
  std::vector<Sequence*> draws;        // of the entries, in the order of their rows
  int num_tokens = 0;
  int num_decodes = 0;          // sequences with a single token; set by Advance
  int64_t attended_tokens = 0;  // as AttendedTokens, of all; set by Advance
  int chunk_tokens = 0;         // how many more may be prompt tokens
  int preemptions = 0;
  int swaps = 0;                     // of preemptions: whose blocks went to the host
  int newly_started = 0;             // requests that left the queue for good
  int64_t newly_started_tokens = 0;  // of their prompts
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

// Cached tokens that a sequence's step reads: a chunk's tile serves many queries, so that a chunk
// reads its context about once per 64 queries.
int64_t AttendedTokens(const Sequence& sequence);
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
