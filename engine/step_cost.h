// What steps have been seen to cost, and what follows for the next ones.
#pragma once

#include <cstdint>

namespace palu {

// Learns from the times of finished steps. Decisions that hang on it: how many prompt tokens a step
// may take beside running answers so that these keep their inter-token time, whether blocks on the
// host are worth fetching, and whether they are worth storing there. A copy, like the computation
// that it saves, holds up everything that runs, so both are counted in seconds of the device.
// Engine thread only.
class StepCost {
 public:
  // target_seconds: wanted time of a step in which sequences decode; 0: no bound.
  // block_copy_seconds: one block between device and host; 0: unknown, copying is then preferred.
  StepCost(double target_seconds, int max_tokens, double block_copy_seconds);

  // A step of that many tokens, decodes of which were single tokens of running answers. chunk_full:
  // it had as many prompt tokens as it was allowed.
  void Observe(int tokens, int decodes, bool chunk_full, double seconds);

  // Prompt tokens that a step may take while others decode; at least 16 or all.
  int chunk_tokens() const { return target_seconds_ > 0 ? chunk_tokens_ : max_tokens_; }
  // Whether copying that many blocks beats computing that many tokens; a block that goes out and
  // comes back is two.
  bool CopyPays(int blocks, int64_t tokens) const;
  // A block that leaves the device is copied at once, and back only if it is asked for again, which
  // is what it saves: how large a share of blocks must be, for storing all to take no longer than
  // computing those anew. 0: copying costs nothing known; infinite: it never pays.
  double LeastReuse(int block_tokens) const;

  double seconds_per_token() const { return seconds_per_token_; }  // of prompts; 0: not known yet

 private:
  const double target_seconds_;
  const int max_tokens_;
  const double block_copy_seconds_;
  int chunk_tokens_;
  double seconds_per_token_ = 0;
};

}  // namespace palu
