// The scheduler's dealings with the block allocator, the prefix cache and the host tier.
#include <algorithm>
#include <utility>

#include "engine/scheduler.h"

namespace palu {
namespace {

// Blocks left free by a start, so that those running do not run out at once.
constexpr int kWatermarkDivisor = 100;

PrefixCache::NodeId RootOf(const Sequence& sequence) {
  return PrefixCache::SaltedRoot(sequence.request->request.cache_salt);
}

}  // namespace

int Scheduler::blocks_used() const {
  return allocator_.num_blocks() - allocator_.num_free() - blocks_cached();
}

int Scheduler::blocks_cached() const { return prefix_cache_ ? prefix_cache_->num_evictable() : 0; }

PrefixCache::Counters Scheduler::cache_counters() const {
  return prefix_cache_ ? prefix_cache_->counters() : PrefixCache::Counters{};
}

PrefixCache::Match Scheduler::TakePrefix(const Sequence& sequence) {
  const RequestState& request = *sequence.request;
  const bool scores_prompt =
      request.request.sampling.num_prompt_logprobs >= 0 && !request.prompt_done;
  const bool pools_all = request.request.pooling == Pooling::kMean;
  if (!prefix_cache_ || scores_prompt || pools_all) return {};
  // The last token is always computed: its logits are needed.
  return prefix_cache_->Take(sequence.tokens, sequence.length() - 1, RootOf(sequence),
                             cost_.CopyPays(1, block_tokens_));
}

bool Scheduler::TakeBlocks(Sequence* sequence) {
  PrefixCache::Match match = TakePrefix(*sequence);
  const int hits = match.size();
  const int needed = BlocksForTokens(sequence->length(), block_tokens_) - hits + match.host_blocks;
  int wanted = needed;
  if (!running_.empty()) {
    wanted += std::max(1, allocator_.num_blocks() / kWatermarkDivisor);
    if (sequence->fresh()) wanted += sequence->request->unfinished - 1;
  }
  if (wanted > AvailableBlocks()) {
    if (prefix_cache_) prefix_cache_->Return(&match);
    return false;
  }
  if (match.host_blocks > 0) prefix_cache_->BringBack(&match);
  if (prefix_cache_) prefix_cache_->Met(match);
  sequence->hashed_blocks = hits;
  sequence->hashed_node = match.node(RootOf(*sequence));
  sequence->computed = sequence->cached = hits * block_tokens_;
  sequence->table.first_block = match.first_block;
  sequence->table.blocks = std::move(match.blocks);
  while (sequence->table.size() < BlocksForTokens(sequence->length(), block_tokens_)) {
    sequence->table.blocks.push_back(AllocateBlock());
  }
  RestoreLastBlock(sequence);
  return true;
}

bool Scheduler::MakeWritable(Sequence* sequence) {
  auto& blocks = sequence->table.blocks;
  const size_t index = sequence->computed / block_tokens_;
  if (index < blocks.size() && allocator_.ref_count(blocks[index]) == 1) return true;
  const int32_t block = AllocateBlock();
  if (block < 0) return false;
  if (index == blocks.size()) {
    blocks.push_back(block);
    return true;
  }
  moves_.push_back({BlockMove::Kind::kCopy, blocks[index], block});
  ReleaseBlock(blocks[index]);
  blocks[index] = block;
  return true;
}

bool Scheduler::SwapOut(Sequence* sequence) {
  if (host_.num_blocks() == 0 || sequence->computed == 0) return false;
  const int last_tokens = sequence->computed % block_tokens_;
  const int held_blocks = sequence->table.size() - sequence->table.first_block;
  if (!cost_.CopyPays(2 * held_blocks, sequence->computed)) return false;
  // Full blocks are in the prefix cache already, and go to the host from there when they must.
  prefix_cache_->Expect(sequence->hashed_node);
  if (last_tokens == 0 || !cost_.CopyPays(2, last_tokens)) return true;
  const int32_t slot = prefix_cache_->TakeHostSlot();
  if (slot < 0) return false;
  const int32_t block = sequence->table.blocks[sequence->computed / block_tokens_];
  moves_.push_back({BlockMove::Kind::kToHost, block, slot});
  sequence->host_slot = slot;
  sequence->host_computed = sequence->computed;
  return true;
}

bool Scheduler::RestoreLastBlock(Sequence* sequence) {
  if (sequence->host_slot < 0) return false;
  // Worth nothing if a block before it was lost.
  const int index = sequence->host_computed / block_tokens_;
  const bool whole = sequence->computed == index * block_tokens_;
  if (whole) {
    moves_.push_back(
        {BlockMove::Kind::kToDevice, sequence->host_slot, sequence->table.blocks[index]});
    sequence->computed = sequence->cached = sequence->host_computed;
  }
  DropHostBlock(sequence);
  return whole;
}

void Scheduler::DropHostBlock(Sequence* sequence) {
  if (sequence->host_slot < 0) return;
  host_.Release(std::exchange(sequence->host_slot, -1));
  sequence->host_computed = 0;
}

int32_t Scheduler::AllocateBlock() {
  if (allocator_.num_free() == 0 && prefix_cache_) prefix_cache_->EvictOne();
  return allocator_.Allocate();
}

int Scheduler::AvailableBlocks() const { return allocator_.num_free() + blocks_cached(); }

void Scheduler::ReleaseBlock(int32_t block) {
  if (allocator_.Release(block) == 1 && prefix_cache_) prefix_cache_->OnLastHolder(block);
}

void Scheduler::ReleaseBlocks(Sequence* sequence) {
  // Backwards, so that the end of a cached prefix is evicted before its beginning.
  BlockTable& table = sequence->table;
  for (int i = table.size(); i-- > table.first_block;) ReleaseBlock(table.blocks[i]);
  table.blocks.clear();
  table.first_block = 0;
  sequence->hashed_blocks = 0;
  sequence->hashed_node = RootOf(*sequence);
}

void Scheduler::CacheFullBlocks(Sequence* sequence) {
  if (!prefix_cache_) return;
  while ((sequence->hashed_blocks + 1) * block_tokens_ <= sequence->computed) {
    const int index = sequence->hashed_blocks++;
    sequence->hashed_node = prefix_cache_->Insert(sequence->hashed_node,
                                                  sequence->tokens.data() + index * block_tokens_,
                                                  sequence->table.blocks[index]);
  }
}

void Scheduler::FreeOutOfWindow(Sequence* sequence) {
  if (window_tokens_ == 0) return;
  BlockTable& table = sequence->table;
  // The block that is written next stays, if it exists.
  const int first = std::min(FirstBlockInWindow(sequence->computed, window_tokens_, block_tokens_),
                             table.size() - 1);
  for (; table.first_block < first; ++table.first_block) {
    ReleaseBlock(std::exchange(table.blocks[table.first_block], -1));
  }
}

}  // namespace palu
