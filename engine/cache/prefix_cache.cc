#include "engine/cache/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace palu {

PrefixCache::PrefixCache(BlockAllocator* allocator, const Options& options)
    : allocator_(allocator),
      options_(options),
      reuse_(options.host != nullptr ? options.host->num_blocks() : 0),
      by_block_(allocator->num_blocks()) {
  PALU_CHECK(options.host == nullptr || options.moves != nullptr);
}

PrefixCache::~PrefixCache() {
  while (!host_order_.empty()) DropBytes(host_order_.front());
  while (!evictable_.empty()) DropBytes(evictable_.front());
  PALU_CHECK(entries_.empty());
}

bool PrefixCache::Entry::has_bytes() const {
  return std::any_of(parts.begin(), parts.end(), [](const Part& part) { return part.has_bytes(); });
}

std::vector<PrefixCache::Entry*> PrefixCache::LongestHit(const std::vector<int32_t>& tokens,
                                                         int max_tokens, NodeId root,
                                                         bool use_host) {
  std::vector<Entry*> path;
  std::vector<int> with_bytes(num_groups(), 0);  // at the end of path
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
    path.push_back(entry);
    const int blocks = static_cast<int>(path.size());
    bool ends = false, whole = true;
    for (int group = 0; group < num_groups(); ++group) {
      const Part& part = entry->parts[group];
      const bool usable = use_host ? part.has_bytes() : part.block >= 0;
      with_bytes[group] = usable ? with_bytes[group] + 1 : 0;
      ends |= !usable && sees_everything(group);
      whole &= with_bytes[group] >= blocks - FirstNeeded(group, blocks);
    }
    if (ends) break;
    if (whole) hit = blocks;
    parent = entry->node;
  }
  path.resize(hit);
  return path;
}

PrefixCache::Match PrefixCache::Take(const std::vector<int32_t>& tokens, int max_tokens,
                                     NodeId root, bool use_host) {
  const std::vector<Entry*> path = LongestHit(tokens, max_tokens, root, use_host);
  const int hit = static_cast<int>(path.size());
  Match match;
  match.tables.resize(num_groups());
  for (const Entry* entry : path) match.nodes.push_back(entry->node);
  for (int group = 0; group < num_groups(); ++group) {
    BlockTable& table = match.tables[group];
    table.first_block = FirstNeeded(group, hit);
    for (int i = 0; i < hit; ++i) {
      Part& part = path[i]->parts[group];
      table.blocks.push_back(i < table.first_block ? -1 : part.block);
      if (i < table.first_block) continue;
      if (part.block >= 0) {
        Unlist(&part);
        allocator_->AddRef(part.block);
      } else {
        // Out of its order, so that making room for the others cannot drop it.
        host_order_.erase(part.place);
        ++match.host_blocks;
      }
    }
  }
  return match;
}

void PrefixCache::BringBack(Match* match) {
  for (int group = 0; group < num_groups(); ++group) {
    BlockTable& table = match->tables[group];
    for (int i = table.first_block; i < table.size() && match->host_blocks > 0; ++i) {
      if (table.blocks[i] >= 0) continue;
      if (allocator_->num_free() == 0) PALU_CHECK(EvictOne());
      Part& part = entries_.at(match->nodes[i]).parts[group];
      const int32_t block = allocator_->Allocate();
      options_.moves->push_back({BlockMove::Kind::kToDevice, part.slot, block});
      options_.host->Release(part.slot);
      part.slot = -1;
      part.block = block;
      by_block_[block] = {match->nodes[i], group};
      allocator_->AddRef(block);
      table.blocks[i] = block;
      --match->host_blocks;
      ++counters_.loaded;
      if (std::exchange(part.guessed, false) && group == 0) reuse_.Loaded();
    }
  }
}

void PrefixCache::Return(Match* match) {
  // Backwards, so that the end of a prefix goes before its beginning.
  for (int i = match->size(); i-- > 0;) {
    for (int group = 0; group < num_groups(); ++group) {
      const BlockTable& table = match->tables[group];
      if (i < table.first_block) continue;
      if (const int32_t block = table.blocks[i]; block >= 0) {
        if (allocator_->Release(block) == 1) OnLastHolder(block);
      } else {
        Part& part = entries_.at(match->nodes[i]).parts[group];
        part.place = host_order_.insert(host_order_.end(), {match->nodes[i], group});
      }
    }
  }
  *match = Match();
}

PrefixCache::Entry* PrefixCache::Add(uint64_t hash, NodeId parent, const int32_t* tokens) {
  const NodeId node = next_node_++;
  Entry* entry = &entries_[node];
  entry->node = node;
  entry->parent = parent;
  entry->hash = hash;
  entry->tokens.assign(tokens, tokens + options_.block_tokens);
  entry->parts.resize(num_groups());
  by_hash_.emplace(hash, node);
  if (const auto up = entries_.find(parent); up != entries_.end()) ++up->second.children;
  return entry;
}

PrefixCache::NodeId PrefixCache::Insert(NodeId parent, const int32_t* tokens,
                                        std::span<const int32_t> blocks) {
  const uint64_t hash = Hash(HashOf(parent), tokens);
  Entry* entry = Find(hash, parent, tokens);
  if (entry == nullptr) entry = Add(hash, parent, tokens);
  for (int group = 0; group < num_groups(); ++group) {
    Part& part = entry->parts[group];
    if (part.block >= 0) continue;
    const int32_t block = blocks[group];
    PALU_CHECK(by_block_[block].node == kRoot);
    if (part.slot >= 0) {
      host_order_.erase(part.place);
      options_.host->Release(std::exchange(part.slot, -1));
      part.guessed = false;
    }
    allocator_->AddRef(block);
    part.block = block;
    by_block_[block] = {entry->node, group};
  }
  return entry->node;
}

void PrefixCache::OnLastHolder(int32_t block) {
  const PartId id = by_block_[block];
  if (id.node == kRoot) return;
  Part& part = entries_.at(id.node).parts[id.group];
  if (part.evictable) return;
  part.place = evictable_.insert(evictable_.end(), id);
  part.evictable = true;
}

bool PrefixCache::EvictOne() {
  if (evictable_.empty()) return false;
  const PartId id = evictable_.front();
  const bool store = ShouldStore(entries_.at(id.node));
  const int32_t slot = store ? TakeHostSlot() : -1;
  const auto found = entries_.find(id.node);
  if (found == entries_.end()) {
    // Another part of the same entry made room on the host, and the entry was worth nothing then.
    if (slot >= 0) options_.host->Release(slot);
    return true;
  }
  Entry& entry = found->second;
  // What becomes of the first group's parts tells what becomes of their prefixes.
  const bool counts = options_.host != nullptr && !entry.expected && id.group == 0;
  if (slot < 0) {
    if (counts) reuse_.Lost(entry.hash);
    DropBytes(id);
    return true;
  }
  if (counts) reuse_.Stored();
  Part& part = entry.parts[id.group];
  part.guessed = !entry.expected;
  Unlist(&part);
  options_.moves->push_back({BlockMove::Kind::kToHost, part.block, slot});
  by_block_[part.block] = {};
  allocator_->Release(part.block);
  part.block = -1;
  part.slot = slot;
  part.place = host_order_.insert(host_order_.end(), id);
  ++counters_.stored;
  return true;
}

int32_t PrefixCache::TakeHostSlot() {
  if (options_.host == nullptr) return -1;
  if (options_.host->num_free() == 0 && !host_order_.empty()) {
    DropBytes(host_order_.front());
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

int PrefixCache::FirstNeeded(int group, int blocks) const {
  if (sees_everything(group)) return 0;
  return FirstBlockInWindow(blocks * options_.block_tokens, options_.windows[group],
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

void PrefixCache::Unlist(Part* part) {
  if (!part->evictable) return;
  evictable_.erase(part->place);
  part->evictable = false;
}

void PrefixCache::DropBytes(PartId id) {
  Entry& entry = entries_.at(id.node);
  if (!sees_everything(id.group)) {
    DropPart(&entry.parts[id.group]);
    if (entry.children > 0 || entry.has_bytes()) return;
  } else {
    for (Part& part : entry.parts) {
      if (part.has_bytes()) DropPart(&part);
    }
  }
  Erase(id.node);
}

// Sequences may still hold the block.
void PrefixCache::DropPart(Part* part) {
  if (part->block >= 0) {
    Unlist(part);
    by_block_[part->block] = {};
    allocator_->Release(std::exchange(part->block, -1));
  } else {
    host_order_.erase(part->place);
    options_.host->Release(std::exchange(part->slot, -1));
  }
  ++counters_.dropped;
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
