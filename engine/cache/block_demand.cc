#include "engine/cache/block_demand.h"

#include <algorithm>

#include "engine/cache/block_table.h"

namespace palu {
namespace {

// The part of a block before the window's first token and after the step's last, and the block that
// comes back from the host beside those of the prefix cache.
constexpr int kPartialBlocks = 2;

}  // namespace

bool BlockDemand::any_step_by_step() const {
  return std::any_of(windows.begin(), windows.end(), [](int window) { return window > 0; });
}

int64_t BlockDemand::TokensAtStart(int group, int64_t cached, int64_t length) const {
  if (!step_by_step(group)) return length;
  // A whole window at least, so that those who start later do not take what this one will need.
  const int64_t ahead = std::max<int64_t>(cached + block_tokens, windows[group]) + chunk_tokens;
  return std::min(length, ahead);
}

int64_t BlockDemand::BlocksOf(int64_t tokens) const {
  int64_t blocks = 0;
  for (int group = 0; group < num_groups(); ++group) {
    const int64_t all = BlocksForTokens(tokens, block_tokens);
    if (!step_by_step(group)) {
      blocks += all;
      continue;
    }
    const int64_t in_window = int64_t{windows[group]} + chunk_tokens;
    blocks += std::min<int64_t>(all, BlocksForTokens(in_window, block_tokens) + kPartialBlocks);
  }
  return blocks;
}

int64_t BlockDemand::LongestIn(int64_t blocks) const {
  int64_t low = 0, high = kAnyLength / block_tokens;  // in blocks of one group
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (BlocksOf(middle * block_tokens) <= blocks) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low * block_tokens;
}

int64_t BlockDemand::TokensIn(int64_t blocks, int64_t length) const {
  if (num_groups() == 1 && !any_step_by_step()) return blocks * block_tokens;
  return blocks * length / BlocksOf(length);
}

}  // namespace palu
