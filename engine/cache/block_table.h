// Where the tokens of one sequence lie in the cache.
#pragma once

#include <cstdint>
#include <vector>

namespace palu {

// Plain value, engine thread only. Block i holds positions [i * block_tokens, (i + 1) *
// block_tokens); it may be shared with other tables (see BlockAllocator::ref_count) and is then
// read only. Blocks before first_block have fallen out of every layer's sliding window and were
// given back; their entries are -1.
struct BlockTable {
  std::vector<int32_t> blocks;
  int first_block = 0;

  int size() const { return static_cast<int>(blocks.size()); }
  int64_t Slot(int position, int block_tokens) const {
    return static_cast<int64_t>(blocks[position / block_tokens]) * block_tokens +
           position % block_tokens;
  }
};

inline int BlocksForTokens(int64_t tokens, int block_tokens) {
  return static_cast<int>((tokens + block_tokens - 1) / block_tokens);
}

// The first block that a token at this position may still see through the window.
inline int FirstBlockInWindow(int position, int window_tokens, int block_tokens) {
  const int first_position = position - window_tokens + 1;
  return first_position > 0 ? first_position / block_tokens : 0;
}

}  // namespace palu
