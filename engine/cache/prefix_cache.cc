#include "engine/cache/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "engine/cache/block_table.h"
#include "kernels/check.h"

namespace palu {

PrefixCache::PrefixCache(BlockAllocator* allocator, const Options& options)
    : allocator_(allocator),
      options_(options),
      reuse_(options.host != nullptr ? options.host->num_blocks() : 0),
      by_block_(allocator->num_blocks(), kRoot) {
  PALU_CHECK(options.host == nullptr || options.moves != nullptr);
}

PrefixCache::~PrefixCache() {
  while (!host_order_.empty()) DropBytes(&entries_.at(host_order_.front()));
  while (!evictable_.empty()) DropBytes(&entries_.at(evictable_.front()));
  PALU_CHECK(entries_.empty());
}

PrefixCache::Match PrefixCache::Take(const std::vector<int32_t>& tokens, int max_tokens,
                                     NodeId root, bool use_host) {
  std::vector<Entry*> path;
  int with_bytes = 0;  // at the end of path
  int hit = 0;
  NodeId parent = root;
  uint64_t hash = HashOf(root);
  const int block_tokens = options_.block_tokens;
  for (int start = 0; start + block_tokens <= max_tokens; start += block_tokens) {
    const int32_t* ids = tokens.data() + start;
    Entry* entry = Find(Hash(hash, ids), parent, ids);
    if (entry == nullptr) {
      AskForLost(hash, ids, (max_tokens - start) / block_tokens);
      break;
    }
    hash = entry->hash;
    const bool usable = use_host ? entry->has_bytes() : entry->block >= 0;
    if (!usable && options_.window_tokens == 0) break;
    path.push_back(entry);
    with_bytes = usable ? with_bytes + 1 : 0;
    const int blocks = static_cast<int>(path.size());
    if (with_bytes >= blocks - FirstNeeded(blocks)) hit = blocks;
    parent = entry->node;
  }
  Match match;
  match.first_block = FirstNeeded(hit);
  for (int i = 0; i < hit; ++i) {
    Entry* entry = path[i];
    match.nodes.push_back(entry->node);
    match.blocks.push_back(i < match.first_block ? -1 : entry->block);
    if (i < match.first_block) continue;
    if (entry->block >= 0) {
      Unlist(entry);
      allocator_->AddRef(entry->block);
    } else {
      // Out of its order, so that making room for the others cannot drop it.
      host_order_.erase(entry->place);
      ++match.host_blocks;
    }
  }
  return match;
}

void PrefixCache::BringBack(Match* match) {
  for (int i = match->first_block; i < match->size() && match->host_blocks > 0; ++i) {
    if (match->blocks[i] >= 0) continue;
    if (allocator_->num_free() == 0) PALU_CHECK(EvictOne());
    Entry& entry = entries_.at(match->nodes[i]);
    const int32_t block = allocator_->Allocate();
    options_.moves->push_back({BlockMove::Kind::kToDevice, entry.slot, block});
    options_.host->Release(entry.slot);
    entry.slot = -1;
    entry.block = block;
    by_block_[block] = entry.node;
    allocator_->AddRef(block);
    match->blocks[i] = block;
    --match->host_blocks;
    ++counters_.loaded;
    if (std::exchange(entry.guessed, false)) reuse_.Loaded();
  }
}

void PrefixCache::Return(Match* match) {
  // Backwards, so that the end of a prefix goes before its beginning.
  for (int i = match->size(); i-- > match->first_block;) {
    if (match->blocks[i] >= 0) {
      if (allocator_->Release(match->blocks[i]) == 1) OnLastHolder(match->blocks[i]);
    } else {
      Entry& entry = entries_.at(match->nodes[i]);
      entry.place = host_order_.insert(host_order_.end(), entry.node);
    }
  }
  *match = Match();
}

PrefixCache::NodeId PrefixCache::Insert(NodeId parent, const int32_t* tokens, int32_t block) {
  const uint64_t hash = Hash(HashOf(parent), tokens);
  Entry* entry = Find(hash, parent, tokens);
  if (entry != nullptr && entry->block >= 0) return entry->node;
  PALU_CHECK(by_block_[block] == kRoot);
  if (entry == nullptr) {
    const NodeId node = next_node_++;
    entry = &entries_[node];
    entry->node = node;
    entry->parent = parent;
    entry->hash = hash;
    entry->tokens.assign(tokens, tokens + options_.block_tokens);
    by_hash_.emplace(hash, node);
    if (const auto up = entries_.find(parent); up != entries_.end()) ++up->second.children;
  } else if (entry->slot >= 0) {
    host_order_.erase(entry->place);
    options_.host->Release(entry->slot);
    entry->slot = -1;
    entry->guessed = false;
  }
  allocator_->AddRef(block);
  entry->block = block;
  by_block_[block] = entry->node;
  return entry->node;
}

void PrefixCache::OnLastHolder(int32_t block) {
  const NodeId node = by_block_[block];
  if (node == kRoot) return;
  Entry& entry = entries_.at(node);
  if (entry.evictable) return;
  entry.place = evictable_.insert(evictable_.end(), node);
  entry.evictable = true;
}

bool PrefixCache::EvictOne() {
  if (evictable_.empty()) return false;
  const NodeId node = evictable_.front();
  const bool store = ShouldStore(entries_.at(node));
  const int32_t slot = store ? TakeHostSlot() : -1;
  Entry& entry = entries_.at(node);
  if (slot < 0) {
    if (options_.host != nullptr && !entry.expected) reuse_.Lost(entry.hash);
    DropBytes(&entry);
    return true;
  }
  entry.guessed = !entry.expected;
  if (entry.guessed) reuse_.Stored();
  Unlist(&entry);
  options_.moves->push_back({BlockMove::Kind::kToHost, entry.block, slot});
  by_block_[entry.block] = kRoot;
  allocator_->Release(entry.block);
  entry.block = -1;
  entry.slot = slot;
  entry.place = host_order_.insert(host_order_.end(), node);
  ++counters_.stored;
  return true;
}

int32_t PrefixCache::TakeHostSlot() {
  if (options_.host == nullptr) return -1;
  if (options_.host->num_free() == 0 && !host_order_.empty()) {
    DropBytes(&entries_.at(host_order_.front()));
  }
  return options_.host->Allocate();
}

bool PrefixCache::ShouldStore(const Entry& entry) const {
  if (options_.host == nullptr) return false;
  return (entry.expected ? 1 : reuse_.value()) >= least_reuse_;
}

void PrefixCache::Expect(NodeId last) {
  for (auto found = entries_.find(last); found != entries_.end();
       found = entries_.find(found->second.parent)) {
    found->second.expected = true;
  }
}

void PrefixCache::Met(const Match& match) {
  for (const NodeId node : match.nodes) entries_.at(node).expected = false;
}

void PrefixCache::AskForLost(uint64_t hash, const int32_t* tokens, int count) {
  if (options_.host == nullptr) return;
  for (; count > 0; --count, tokens += options_.block_tokens) {
    hash = Hash(hash, tokens);
    if (!reuse_.AskForLost(hash)) return;
  }
}

int PrefixCache::FirstNeeded(int blocks) const {
  if (options_.window_tokens == 0) return 0;
  return FirstBlockInWindow(blocks * options_.block_tokens, options_.window_tokens,
                            options_.block_tokens);
}

// Of a root it is the node itself. What hangs on an entry that is gone is never found, whatever its
// hash.
uint64_t PrefixCache::HashOf(NodeId node) const {
  const auto found = entries_.find(node);
  return found != entries_.end() ? found->second.hash : node;
}

uint64_t PrefixCache::Hash(uint64_t parent_hash, const int32_t* tokens) const {
  uint64_t hash =
      (parent_hash ^ options_.format_key) * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull;
  for (int i = 0; i < options_.block_tokens; ++i) {
    hash = (hash ^ static_cast<uint32_t>(tokens[i])) * 0xff51afd7ed558ccdull;
    hash ^= hash >> 32;
  }
  return hash & options_.hash_mask;
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

void PrefixCache::Unlist(Entry* entry) {
  if (!entry->evictable) return;
  evictable_.erase(entry->place);
  entry->evictable = false;
}

void PrefixCache::DropBytes(Entry* entry) {
  if (entry->block >= 0) {
    Unlist(entry);
    by_block_[entry->block] = kRoot;
    allocator_->Release(entry->block);
    entry->block = -1;
  } else {
    host_order_.erase(entry->place);
    options_.host->Release(entry->slot);
    entry->slot = -1;
  }
  ++counters_.dropped;
  if (entry->children == 0 || options_.window_tokens == 0) Erase(entry->node);
}

void PrefixCache::Erase(NodeId node) {
  while (true) {
    const auto found = entries_.find(node);
    if (found == entries_.end()) return;
    const Entry& entry = found->second;
    const auto [begin, end] = by_hash_.equal_range(entry.hash);
    by_hash_.erase(std::find_if(begin, end, [&](const auto& item) { return item.second == node; }));
    const NodeId parent = entry.parent;
    entries_.erase(found);
    // A parent that was only kept as the way here goes too.
    const auto up = entries_.find(parent);
    if (up == entries_.end() || --up->second.children > 0 || up->second.has_bytes()) return;
    node = parent;
  }
}

}  // namespace palu
