// Full blocks kept after their sequences ended, found again by their tokens.
#pragma once

#include <cstdint>
#include <list>
#include <unordered_map>
#include <vector>

#include "engine/cache/block_allocator.h"
#include "engine/cache/block_move.h"
#include "engine/cache/reuse_estimate.h"

namespace palu {

// A trie of full blocks: an entry is keyed by its parent entry and its own tokens, hashed for the
// look-up and compared in full, so that a hash collision can never hand out another prompt's
// latents. Prompts of different salts begin at different roots. An entry's bytes lie in a device
// block, of which it holds one reference, or in a slot of the host tier. Blocks that nobody else
// holds are taken in the order of their last use: they move to the host, whose oldest entry makes
// room, or are lost: without a host tier, or where blocks are asked for again too seldom to be
// worth the way there and back.
//
// With a sliding window only the last window_tokens before a hit's end must be there, so an entry
// that lost its bytes stays as a way to its children.
//
// Engine thread only; allocators and the list of moves must outlive it.
class PrefixCache {
 public:
  // An entry's identity; never used again once the entry is gone.
  using NodeId = uint64_t;
  static constexpr NodeId kRoot = 0;
  // Where the prompts of a salt begin: nothing below it is found from another root. No entry's node
  // has the highest bit.
  static NodeId SaltedRoot(uint64_t salt) { return salt == 0 ? kRoot : salt | NodeId{1} << 63; }

  struct Options {
    int block_tokens = 16;
    int window_tokens = 0;       // 0: none
    uint64_t format_key = 0;     // of the cache's layout, part of every key
    uint64_t hash_mask = ~0ull;  // bits of the hash that are used; tests make collisions certain
    BlockAllocator* host = nullptr;           // null: no host tier
    std::vector<BlockMove>* moves = nullptr;  // with host: where copies are asked for
  };
  struct Counters {
    uint64_t stored = 0;   // blocks moved to the host
    uint64_t loaded = 0;   // blocks brought back
    uint64_t dropped = 0;  // blocks whose bytes were lost
  };

  PrefixCache(BlockAllocator* allocator, const Options& options);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  struct Match {
    // In order; one reference each was taken for the caller. -1: on the host until BringBack, or
    // (before first_block) out of the window and not needed.
    std::vector<int32_t> blocks;
    std::vector<NodeId> nodes;  // of blocks
    int first_block = 0;        // those before it lie out of the window
    int host_blocks = 0;        // of blocks, to be brought back

    NodeId node(NodeId root) const { return nodes.empty() ? root : nodes.back(); }
    int size() const { return static_cast<int>(blocks.size()); }
  };
  // The longest cached prefix of tokens[0, max_tokens) from a root on, in full blocks; without
  // use_host it ends where the bytes are on the host. What is found on the host stays there until
  // BringBack or Return, one of which must follow before the next Take.
  Match Take(const std::vector<int32_t>& tokens, int max_tokens, NodeId root, bool use_host);
  // Gives the host's blocks of a match a place on the device. There must be room: as many blocks
  // free or evictable as match.host_blocks.
  void BringBack(Match* match);
  // Undoes Take.
  void Return(Match* match);

  // Makes a full block findable as the child of parent; tokens points to its block_tokens ids. If
  // an equal entry exists, that one stays. Returns the entry's node.
  NodeId Insert(NodeId parent, const int32_t* tokens, int32_t block);

  // To be called after a holder has released a block and one reference is left.
  void OnLastHolder(int32_t block);

  // Frees the least recently used block that only the cache holds; false if there is none.
  bool EvictOne();
  // Blocks go to the host only if at least this share of them is asked for again; 0: always. Those
  // of Expect always do, if it is at most 1.
  void SetLeastReuse(double share) { least_reuse_ = share; }
  // A sequence that was preempted will ask for the entries up to this one; Met: it has.
  void Expect(NodeId last);
  void Met(const Match& match);
  // A slot of the host tier, for whose sake its oldest entry may go; -1: none.
  int32_t TakeHostSlot();

  int num_evictable() const { return static_cast<int>(evictable_.size()); }
  int num_on_host() const { return static_cast<int>(host_order_.size()); }
  int num_entries() const { return static_cast<int>(entries_.size()); }
  const Counters& counters() const { return counters_; }
  double reuse() const { return reuse_.value(); }

 private:
  struct Entry {
    NodeId node = kRoot;
    NodeId parent = kRoot;
    uint64_t hash = 0;   // of the text up to here
    int32_t block = -1;  // on the device, or
    int32_t slot = -1;   // on the host, or neither
    int children = 0;
    bool evictable = false;
    bool expected = false;  // see Expect
    bool guessed = false;   // on the host without being expected
    std::vector<int32_t> tokens;
    std::list<NodeId>::iterator place;  // in evictable_ or host_order_

    bool has_bytes() const { return block >= 0 || slot >= 0; }
  };

  uint64_t HashOf(NodeId node) const;
  uint64_t Hash(uint64_t parent_hash, const int32_t* tokens) const;
  Entry* Find(uint64_t hash, NodeId parent, const int32_t* tokens);
  void AskForLost(uint64_t hash, const int32_t* tokens, int count);
  bool ShouldStore(const Entry& entry) const;
  int FirstNeeded(int blocks) const;  // of that many, before the next token
  void Unlist(Entry* entry);          // from evictable_ or host_order_
  void DropBytes(Entry* entry);       // and the entry, unless it is still a way to others
  void Erase(NodeId node);

  BlockAllocator* const allocator_;
  const Options options_;
  Counters counters_;
  ReuseEstimate reuse_;
  double least_reuse_ = 0;
  NodeId next_node_ = kRoot + 1;
  std::unordered_map<NodeId, Entry> entries_;
  std::unordered_multimap<uint64_t, NodeId> by_hash_;
  std::vector<NodeId> by_block_;  // kRoot: not in the cache
  std::list<NodeId> evictable_;   // least recently used first
  std::list<NodeId> host_order_;  // likewise, those on the host
};

}  // namespace palu
