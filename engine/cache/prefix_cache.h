// Full blocks kept after their sequences ended, found again by their tokens.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/cache/block_allocator.h"
#include "engine/cache/block_move.h"
#include "engine/cache/block_table.h"
#include "engine/cache/reuse_estimate.h"

namespace palu {

// A trie of full blocks: an entry is keyed by its parent entry and its own tokens, hashed for the
// look-up and compared in full, so that a hash collision can never hand out another prompt's
// latents. Prompts of different salts begin at different roots. An entry has one part per layer
// group, whose bytes lie in a device block, of which it holds one reference, or in a slot of the
// host tier. Blocks that nobody else holds are taken in the order of their last use: they move to
// the host, whose oldest part makes room, or are lost: without a host tier, or where blocks are
// asked for again too seldom to be worth the way there and back.
//
// Of a group with a sliding window only the last window before a hit's end must be there, so an
// entry that lost such a part stays: for its other parts, or as a way to its children. Without the
// part of a group that sees everything it is worth nothing, and goes.
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
    std::vector<int> windows = {0};  // in tokens, of every layer group; 0: none
    uint64_t format_key = 0;         // of the cache's layout, part of every key
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
    // Of every group; one reference of each block was taken for the caller. -1: on the host until
    // BringBack, or (before first_block) out of the window and not needed.
    std::vector<BlockTable> tables;
    std::vector<NodeId> nodes;  // of the tables' entries
    int host_blocks = 0;        // of the tables, to be brought back

    NodeId node(NodeId root) const { return nodes.empty() ? root : nodes.back(); }
    int size() const { return static_cast<int>(nodes.size()); }
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

  // Makes a full block of every group findable as the child of parent; tokens points to the
  // block_tokens ids. An equal entry keeps what it has on the device, and takes the rest. Returns
  // the entry's node.
  NodeId Insert(NodeId parent, const int32_t* tokens, std::span<const int32_t> blocks);

  // To be called after a holder has released a block and one reference is left.
  void OnLastHolder(int32_t block);

  // Frees the least recently used block that only the cache holds, and what is worth nothing
  // without it; false if there is none.
  bool EvictOne();
  // Blocks go to the host only if at least this share of them is asked for again; 0: always. Those
  // of Expect always do, if it is at most 1.
  void SetLeastReuse(double share) { least_reuse_ = share; }
  // A sequence that was preempted will ask for the entries up to this one; Met: it has.
  void Expect(NodeId last);
  void Met(const Match& match);
  // A slot of the host tier, for whose sake its oldest part may go; -1: none.
  int32_t TakeHostSlot();

  int num_evictable() const { return static_cast<int>(evictable_.size()); }
  int num_on_host() const { return static_cast<int>(host_order_.size()); }
  int num_entries() const { return static_cast<int>(entries_.size()); }
  const Counters& counters() const { return counters_; }
  double reuse() const { return reuse_.value(); }

 private:
  struct PartId {
    NodeId node = kRoot;
    int group = 0;
  };
  // Of an entry, in one layer group.
  struct Part {
    int32_t block = -1;  // on the device, or
    int32_t slot = -1;   // on the host, or neither
    bool evictable = false;
    bool guessed = false;               // on the host without being expected
    std::list<PartId>::iterator place;  // in evictable_ or host_order_

    bool has_bytes() const { return block >= 0 || slot >= 0; }
  };
  struct Entry {
    NodeId node = kRoot;
    NodeId parent = kRoot;
    uint64_t hash = 0;  // of the text up to here
    int children = 0;
    bool expected = false;  // see Expect
    std::vector<int32_t> tokens;
    std::vector<Part> parts;  // of every group

    bool has_bytes() const;
  };

  int num_groups() const { return static_cast<int>(options_.windows.size()); }
  bool sees_everything(int group) const { return options_.windows[group] == 0; }
  uint64_t HashOf(NodeId node) const;
  uint64_t Hash(uint64_t parent_hash, const int32_t* tokens) const;
  Entry* Find(uint64_t hash, NodeId parent, const int32_t* tokens);
  Entry* Add(uint64_t hash, NodeId parent, const int32_t* tokens);
  void AskForLost(uint64_t hash, const int32_t* tokens, int count);
  bool ShouldStore(const Entry& entry) const;
  std::vector<Entry*> LongestHit(const std::vector<int32_t>& tokens, int max_tokens, NodeId root,
                                 bool use_host);
  int FirstNeeded(int group, int blocks) const;  // of that many, before the next token
  void Unlist(Part* part);                       // from evictable_ or host_order_
  void DropBytes(PartId id);  // and the entry, unless it is still of use, or a way to others
  void DropPart(Part* part);
  void Erase(NodeId node);

  BlockAllocator* const allocator_;
  const Options options_;
  Counters counters_;
  ReuseEstimate reuse_;
  double least_reuse_ = 0;
  NodeId next_node_ = kRoot + 1;
  std::unordered_map<NodeId, Entry> entries_;
  std::unordered_multimap<uint64_t, NodeId> by_hash_;
  std::vector<PartId> by_block_;  // node kRoot: not in the cache
  std::list<PartId> evictable_;   // least recently used first
  std::list<PartId> host_order_;  // likewise, those on the host
};

}  // namespace palu
