// How many blocks sequences take from the pool.
#pragma once

#include <cstdint>
#include <vector>

namespace palu {

// Every layer group holds its part of a token's latents in blocks and a block table of its own (see
// GroupLayers). A group whose layers see everything holds a sequence's blocks to its end; one that
// slides takes them step by step and gives them back behind its window. Plain value.
struct BlockDemand {
  static constexpr int64_t kAnyLength = INT32_MAX;

  int block_tokens = 16;
  std::vector<int> windows = {0};  // of every layer group, in tokens; 0: sees everything
  int chunk_tokens = 0;            // most tokens of one sequence in a step; with windows

  int num_groups() const { return static_cast<int>(windows.size()); }
  bool step_by_step(int group) const { return windows[group] > 0; }
  bool any_step_by_step() const;

  // Tokens for which a group has blocks when a sequence of that length starts with the first
  // `cached` of them in the cache.
  int64_t TokensAtStart(int group, int64_t cached, int64_t length) const;
  // The most blocks that a sequence of that many tokens ever holds.
  int64_t BlocksOf(int64_t tokens) const;
  // The longest sequence that needs no more than so many blocks; kAnyLength at most, as where every
  // group slides and the blocks hold the windows.
  int64_t LongestIn(int64_t blocks) const;
  // Tokens that so many blocks hold in sequences of this length, which matters with windows only.
  int64_t TokensIn(int64_t blocks, int64_t length) const;
};

}  // namespace palu
