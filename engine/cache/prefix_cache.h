// Full blocks kept after their sequences ended, found again by their tokens.
#pragma once

#include <cstdint>
#include <list>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/cache/block_allocator.h"

namespace palu {

// A trie of full blocks: an entry is keyed by its parent entry and its own tokens, hashed for the
// look-up and compared in full, so that a hash collision can never hand out another prompt's
// latents. Every entry holds one reference of its block. Entries that nobody else holds are evicted
// in the order of their last use. Engine thread only; the allocator must outlive it.
class PrefixCache {
 public:
  // An entry's identity; never used again once the entry is evicted.
  using NodeId = uint64_t;
  static constexpr NodeId kRoot = 0;
  // Where the prompts of a salt begin: nothing below it is found from another root. No entry's node
  // has the highest bit.
  static NodeId SaltedRoot(uint64_t salt) { return salt == 0 ? kRoot : salt | NodeId{1} << 63; }

  // hash_mask: bits of the hash that are used; tests make collisions certain with few.
  PrefixCache(BlockAllocator* allocator, int block_tokens, uint64_t hash_mask = ~uint64_t{0});
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  struct Match {
    std::vector<int32_t> blocks;  // in order; one reference each was taken for the caller
    NodeId node = kRoot;          // of the last of blocks; the root if there is none
  };
  // The longest cached prefix of tokens[0, max_tokens) from a root on, in full blocks.
  Match Take(const std::vector<int32_t>& tokens, int max_tokens, NodeId root = kRoot);

  // Makes a full block findable as the child of parent; tokens points to its block_tokens ids. If
  // an equal entry exists, that one stays. Returns the entry's node.
  NodeId Insert(NodeId parent, const int32_t* tokens, int32_t block);

  // To be called after a holder has released a block and one reference is left.
  void OnLastHolder(int32_t block);

  // Frees the least recently used block that only the cache holds; false if there is none.
  bool EvictOne();

  int num_evictable() const { return static_cast<int>(evictable_.size()); }
  int num_entries() const { return static_cast<int>(entries_.size()); }

 private:
  struct Entry {
    NodeId node = kRoot;
    NodeId parent = kRoot;
    uint64_t hash = 0;
    int32_t block = -1;
    std::vector<int32_t> tokens;
    bool evictable = false;
    std::list<int32_t>::iterator place;  // in evictable_, if evictable
  };

  uint64_t Hash(NodeId parent, const int32_t* tokens) const;
  Entry* Find(uint64_t hash, NodeId parent, const int32_t* tokens);
  void Remove(int32_t block);

  BlockAllocator* allocator_;
  const int block_tokens_;
  const uint64_t hash_mask_;
  NodeId next_node_ = kRoot + 1;
  std::unordered_map<int32_t, Entry> entries_;          // by block
  std::unordered_multimap<uint64_t, int32_t> by_hash_;  // hash to block
  std::list<int32_t> evictable_;                        // least recently used first
};

}  // namespace palu
