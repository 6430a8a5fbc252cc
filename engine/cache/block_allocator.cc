#include "engine/cache/block_allocator.h"

#include "kernels/check.h"

namespace palu {

BlockAllocator::BlockAllocator(int num_blocks) : ref_counts_(num_blocks, 0) {
  free_.reserve(num_blocks);
  for (int block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
}

BlockAllocator::~BlockAllocator() { PALU_CHECK(num_free() == num_blocks()); }

int32_t BlockAllocator::Allocate() {
  if (free_.empty()) return -1;
  const int32_t block = free_.back();
  free_.pop_back();
  PALU_CHECK(ref_counts_[block] == 0);
  ref_counts_[block] = 1;
  return block;
}

void BlockAllocator::AddRef(int32_t block) {
  PALU_CHECK(ref_counts_[block] > 0);
  ++ref_counts_[block];
}

int BlockAllocator::Release(int32_t block) {
  PALU_CHECK(ref_counts_[block] > 0);
  if (--ref_counts_[block] == 0) free_.push_back(block);
  return ref_counts_[block];
}

}  // namespace palu
