// Which cache blocks are free, and how many holders the others have. Ids only, never bytes.
#pragma once

#include <cstdint>
#include <vector>

namespace palu {

// Owned by the scheduler, used by the engine thread only; not thread-safe. The destructor checks
// that every block came home.
class BlockAllocator {
 public:
  explicit BlockAllocator(int num_blocks);
  ~BlockAllocator();
  BlockAllocator(const BlockAllocator&) = delete;
  BlockAllocator& operator=(const BlockAllocator&) = delete;

  // A block with one holder, or -1 when none is free.
  int32_t Allocate();
  void AddRef(int32_t block);
  // Drops one holder; returns how many are left.
  int Release(int32_t block);

  int ref_count(int32_t block) const { return ref_counts_[block]; }
  int num_blocks() const { return static_cast<int>(ref_counts_.size()); }
  int num_free() const { return static_cast<int>(free_.size()); }

 private:
  std::vector<int32_t> free_;  // a stack: a block just freed is the first reused
  std::vector<int32_t> ref_counts_;
};

}  // namespace palu
