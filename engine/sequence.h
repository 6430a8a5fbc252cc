// The engine's view of a request: its choices, each with tokens, counters and a block table.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/cache/block_table.h"
#include "engine/cache/prefix_cache.h"
#include "engine/output_stream.h"
#include "engine/request.h"
#include "engine/token_constraint.h"

namespace palu {

struct RequestState;

// One choice of a request. Prefill, chunking, prefix hits, decoding and preemption are arithmetic
// on the counters: what a sequence has to do is always tokens [computed, tokens.size()), a step
// does the next `scheduled` of them, and a token is drawn when nothing is left. Preemption sets
// computed back to 0. While a step is under way, computed already counts it, and `pending` is the
// token that it draws: part of the length, not yet of tokens. Engine thread only.
struct Sequence {
  enum class State { kWaiting, kRunning, kFinished };

  RequestState* request = nullptr;
  int choice = 0;
  uint64_t seed = 0;
  State state = State::kWaiting;

  std::vector<int32_t> tokens;  // prompt, then output
  int prompt = 0;               // of tokens
  int computed = 0;             // of tokens; their latents are in the cache
  int cached = 0;               // of computed; found in the prefix cache at the last start
  int scheduled = 0;            // in the step now planned
  int pending = 0;              // 0 or 1

  std::vector<BlockTable> tables;  // of every layer group
  // The entries of the prefix cache that this sequence has walked: blocks and the last one's node.
  int hashed_blocks = 0;
  PrefixCache::NodeId hashed_node = PrefixCache::kRoot;
  // Of a preempted sequence: where its last, not full blocks of every group wait on the host
  // (empty: nowhere), and how many tokens were computed then.
  std::vector<int32_t> host_slots;
  int host_computed = 0;

  std::unique_ptr<ConstraintState> constraint;  // null: any token may be drawn

  // Choices without a token yet that wait for this sequence to compute their prompt (n > 1).
  std::vector<Sequence*> followers;
  Sequence* leader = nullptr;  // of a follower
  RequestTiming::Clock::time_point last_token{};

  int length() const { return static_cast<int>(tokens.size()) + pending; }
  int generated() const { return length() - prompt; }
  int remaining() const { return length() - computed; }
  bool fresh() const { return state == State::kWaiting && generated() == 0; }
};

struct Tenant;

// Owned by the scheduler from Add until it is taken as finished. Engine thread only, except stream.
struct RequestState {
  Request request;
  std::shared_ptr<OutputStream> stream;
  RequestTiming timing;
  uint64_t arrival_order = 0;
  double service_key = 0;    // lower is served first
  Tenant* tenant = nullptr;  // under fair scheduling
  std::vector<std::unique_ptr<Sequence>> sequences;
  int unfinished = 0;             // of sequences
  size_t place = 0;               // among the scheduler's requests
  Sequence* prefiller = nullptr;  // computes the prompt for itself and its followers
  bool prompt_done = false;
  int cached_tokens = 0;  // of the prompt, when it was first started
  std::vector<OutputToken> prompt_logprobs;
  std::vector<float> pooled;  // sum of pooled_tokens hidden states
  int pooled_tokens = 0;
  bool any_length = false;  // a choice ended with kLength

  bool started() const { return timing.scheduled != RequestTiming::Clock::time_point{}; }
  int generated() const;
};

// Makes the sequences of a request that was validated; base_seed is the request's seed or a drawn
// one.
std::unique_ptr<RequestState> MakeRequestState(Request request,
                                               std::shared_ptr<OutputStream> stream,
                                               uint64_t base_seed);

// The order of service: by the request's service key (see WaitingLine), then by arrival, then by
// choice. Total and never changing, so that of two sequences in need of blocks always the same one
// gives way.
struct ServedBefore {
  bool operator()(const Sequence* a, const Sequence* b) const;
};

}  // namespace palu
