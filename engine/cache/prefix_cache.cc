#include "engine/cache/prefix_cache.h"

#include <algorithm>

#include "kernels/check.h"

namespace palu {

PrefixCache::PrefixCache(BlockAllocator* allocator, int block_tokens, uint64_t hash_mask)
    : allocator_(allocator), block_tokens_(block_tokens), hash_mask_(hash_mask) {}

PrefixCache::~PrefixCache() {
  while (EvictOne()) {
  }
  PALU_CHECK(entries_.empty());
}

PrefixCache::Match PrefixCache::Take(const std::vector<int32_t>& tokens, int max_tokens,
                                     NodeId root) {
  Match match;
  match.node = root;
  for (int start = 0; start + block_tokens_ <= max_tokens; start += block_tokens_) {
    const int32_t* ids = tokens.data() + start;
    Entry* entry = Find(Hash(match.node, ids), match.node, ids);
    if (entry == nullptr) break;
    if (entry->evictable) {
      evictable_.erase(entry->place);
      entry->evictable = false;
    }
    allocator_->AddRef(entry->block);
    match.blocks.push_back(entry->block);
    match.node = entry->node;
  }
  return match;
}

PrefixCache::NodeId PrefixCache::Insert(NodeId parent, const int32_t* tokens, int32_t block) {
  const uint64_t hash = Hash(parent, tokens);
  if (const Entry* equal = Find(hash, parent, tokens)) return equal->node;
  PALU_CHECK(!entries_.contains(block));
  allocator_->AddRef(block);
  Entry& entry = entries_[block];
  entry.node = next_node_++;
  entry.parent = parent;
  entry.hash = hash;
  entry.block = block;
  entry.tokens.assign(tokens, tokens + block_tokens_);
  by_hash_.emplace(hash, block);
  return entry.node;
}

void PrefixCache::OnLastHolder(int32_t block) {
  const auto found = entries_.find(block);
  if (found == entries_.end() || found->second.evictable) return;
  found->second.place = evictable_.insert(evictable_.end(), block);
  found->second.evictable = true;
}

bool PrefixCache::EvictOne() {
  if (evictable_.empty()) return false;
  Remove(evictable_.front());
  return true;
}

uint64_t PrefixCache::Hash(NodeId parent, const int32_t* tokens) const {
  uint64_t hash = parent * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull;
  for (int i = 0; i < block_tokens_; ++i) {
    hash = (hash ^ static_cast<uint32_t>(tokens[i])) * 0xff51afd7ed558ccdull;
    hash ^= hash >> 32;
  }
  return hash & hash_mask_;
}

PrefixCache::Entry* PrefixCache::Find(uint64_t hash, NodeId parent, const int32_t* tokens) {
  const auto [begin, end] = by_hash_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    Entry& entry = entries_.at(it->second);
    if (entry.parent == parent && std::equal(entry.tokens.begin(), entry.tokens.end(), tokens)) {
      return &entry;
    }
  }
  return nullptr;
}

void PrefixCache::Remove(int32_t block) {
  const auto found = entries_.find(block);
  const Entry& entry = found->second;
  evictable_.erase(entry.place);
  const auto [begin, end] = by_hash_.equal_range(entry.hash);
  by_hash_.erase(std::find_if(begin, end, [&](const auto& item) { return item.second == block; }));
  entries_.erase(found);
  allocator_->Release(block);
}

}  // namespace palu
