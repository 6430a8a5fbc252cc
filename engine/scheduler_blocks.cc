// The scheduler's dealings with the block allocator and the prefix cache.
#include <utility>

#include "engine/scheduler.h"

namespace palu {

int Scheduler::blocks_used() const {
  return allocator_.num_blocks() - allocator_.num_free() - blocks_cached();
}

int Scheduler::blocks_cached() const { return prefix_cache_ ? prefix_cache_->num_evictable() : 0; }

PrefixCache::Match Scheduler::TakePrefix(const Sequence& sequence) {
  const RequestState& request = *sequence.request;
  const bool scores_prompt =
      request.request.sampling.num_prompt_logprobs >= 0 && !request.prompt_done;
  const PrefixCache::NodeId root = PrefixCache::SaltedRoot(request.request.cache_salt);
  const bool pools_all = request.request.pooling == Pooling::kMean;
  if (!prefix_cache_ || scores_prompt || pools_all) return {{}, root};
  // The last token is always computed: its logits are needed.
  return prefix_cache_->Take(sequence.tokens, sequence.length() - 1, root);
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
  auto& blocks = sequence->table.blocks;
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) ReleaseBlock(*block);
  blocks.clear();
  sequence->hashed_blocks = 0;
  sequence->hashed_node = PrefixCache::SaltedRoot(sequence->request->request.cache_salt);
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

}  // namespace palu
