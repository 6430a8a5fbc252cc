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
  const int groups = demand_.num_groups();
  const int hits = match.size();
  const int hit_tokens = hits * block_tokens_;
  const auto blocks_of = [&](int group) {
    return BlocksForTokens(demand_.TokensAtStart(group, hit_tokens, sequence->length()),
                           block_tokens_);
  };
  int wanted = match.host_blocks;
  for (int group = 0; group < groups; ++group) wanted += blocks_of(group) - hits;
  if (!running_.empty()) {
    wanted += std::max(groups, allocator_.num_blocks() / kWatermarkDivisor);
    if (sequence->fresh()) wanted += (sequence->request->unfinished - 1) * groups;
  }
  if (wanted > AvailableBlocks()) {
    if (prefix_cache_) prefix_cache_->Return(&match);
    return false;
  }
  if (match.host_blocks > 0) prefix_cache_->BringBack(&match);
  if (prefix_cache_) prefix_cache_->Met(match);
  sequence->hashed_blocks = hits;
  sequence->hashed_node = match.node(RootOf(*sequence));
  sequence->computed = sequence->cached = hit_tokens;
  match.tables.resize(groups);
  sequence->tables = std::move(match.tables);
  for (int group = 0; group < groups; ++group) {
    BlockTable& table = sequence->tables[group];
    for (const int blocks = blocks_of(group); table.size() < blocks;) {
      table.blocks.push_back(AllocateBlock());
    }
  }
  RestoreLastBlocks(sequence);
  return true;
}

bool Scheduler::MakeWritable(Sequence* sequence) {
  const size_t index = sequence->computed / block_tokens_;
  for (BlockTable& table : sequence->tables) {
    if (!MakeWritable(&table, index)) return false;
  }
  return true;
}

bool Scheduler::MakeWritable(BlockTable* table, size_t index) {
  auto& blocks = table->blocks;
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

// Of positions before end, which a chunk is about to write.
bool Scheduler::Cover(Sequence* sequence, int end) {
  const int needed = BlocksForTokens(end, block_tokens_);
  for (BlockTable& table : sequence->tables) {
    while (table.size() < needed) {
      const int32_t block = AllocateBlock();
      if (block < 0) return false;
      table.blocks.push_back(block);
    }
  }
  return true;
}

bool Scheduler::SwapOut(Sequence* sequence) {
  if (host_.num_blocks() == 0 || sequence->computed == 0) return false;
  const int last_tokens = sequence->computed % block_tokens_;
  const int groups = demand_.num_groups();
  int held_blocks = 0;
  for (const BlockTable& table : sequence->tables) held_blocks += table.size() - table.first_block;
  if (!cost_.CopyPays(2 * ((held_blocks + groups - 1) / groups), sequence->computed)) return false;
  // Full blocks are in the prefix cache already, and go to the host from there when they must.
  prefix_cache_->Expect(sequence->hashed_node);
  if (last_tokens == 0 || !cost_.CopyPays(2, last_tokens)) return true;
  sequence->host_computed = sequence->computed;
  for (const BlockTable& table : sequence->tables) {
    const int32_t slot = prefix_cache_->TakeHostSlot();
    if (slot < 0) {
      DropHostBlocks(sequence);
      return false;
    }
    const int32_t block = table.blocks[sequence->computed / block_tokens_];
    moves_.push_back({BlockMove::Kind::kToHost, block, slot});
    sequence->host_slots.push_back(slot);
  }
  return true;
}

bool Scheduler::RestoreLastBlocks(Sequence* sequence) {
  if (sequence->host_slots.empty()) return false;
  // Worth nothing if a block before them was lost.
  const int index = sequence->host_computed / block_tokens_;
  const bool whole = sequence->computed == index * block_tokens_;
  if (whole) {
    for (size_t group = 0; group < sequence->tables.size(); ++group) {
      moves_.push_back({BlockMove::Kind::kToDevice, sequence->host_slots[group],
                        sequence->tables[group].blocks[index]});
    }
    sequence->computed = sequence->cached = sequence->host_computed;
  }
  DropHostBlocks(sequence);
  return whole;
}

void Scheduler::DropHostBlocks(Sequence* sequence) {
  for (const int32_t slot : sequence->host_slots) host_.Release(slot);
  sequence->host_slots.clear();
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
  int size = 0;
  for (const BlockTable& table : sequence->tables) size = std::max(size, table.size());
  for (int i = size; i-- > 0;) {
    for (const BlockTable& table : sequence->tables) {
      if (i >= table.first_block && i < table.size()) ReleaseBlock(table.blocks[i]);
    }
  }
  for (BlockTable& table : sequence->tables) {
    table.blocks.clear();
    table.first_block = 0;
  }
  sequence->hashed_blocks = 0;
  sequence->hashed_node = RootOf(*sequence);
}

void Scheduler::CacheFullBlocks(Sequence* sequence) {
  if (!prefix_cache_) return;
  while ((sequence->hashed_blocks + 1) * block_tokens_ <= sequence->computed) {
    const int index = sequence->hashed_blocks++;
    for (size_t group = 0; group < group_blocks_.size(); ++group) {
      group_blocks_[group] = sequence->tables[group].blocks[index];
    }
    sequence->hashed_node = prefix_cache_->Insert(
        sequence->hashed_node, sequence->tokens.data() + index * block_tokens_, group_blocks_);
  }
}

void Scheduler::FreeOutOfWindow(Sequence* sequence) {
  for (size_t group = 0; group < sequence->tables.size(); ++group) {
    const int window = demand_.windows[group];
    if (window == 0) continue;
    BlockTable& table = sequence->tables[group];
    // The block that is written next stays, if it exists.
    const int first =
        std::min(FirstBlockInWindow(sequence->computed, window, block_tokens_), table.size() - 1);
    for (; table.first_block < first; ++table.first_block) {
      ReleaseBlock(std::exchange(table.blocks[table.first_block], -1));
    }
  }
}

}  // namespace palu
