// BlockAllocator and PrefixCache against plain models of themselves.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "engine/cache/block_allocator.h"
#include "engine/cache/block_table.h"
#include "engine/cache/prefix_cache.h"

namespace palu {
namespace {

TEST(BlockAllocator, RandomUseMatchesCounts) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const int num_blocks = 1 + static_cast<int>(random() % 20);
    BlockAllocator allocator(num_blocks);
    std::map<int32_t, int> model;
    for (int i = 0; i < 300; ++i) {
      const int action = static_cast<int>(random() % 3);
      if (action == 0) {
        const int32_t block = allocator.Allocate();
        ASSERT_EQ(block < 0, static_cast<int>(model.size()) == num_blocks);
        if (block >= 0) {
          ASSERT_LT(block, num_blocks);
          ASSERT_TRUE(model.emplace(block, 1).second) << "given away twice";
        }
      } else if (!model.empty()) {
        const auto it = std::next(model.begin(), static_cast<int>(random() % model.size()));
        if (action == 1) {
          allocator.AddRef(it->first);
          ++it->second;
        } else {
          ASSERT_EQ(allocator.Release(it->first), --it->second);
          if (it->second == 0) model.erase(it);
        }
      }
      ASSERT_EQ(allocator.num_free(), num_blocks - static_cast<int>(model.size()));
      for (const auto& [block, count] : model) ASSERT_EQ(allocator.ref_count(block), count);
    }
    for (const auto& [block, count] : model) {
      for (int i = 0; i < count; ++i) allocator.Release(block);
    }
  }
}

TEST(BlockAllocatorDeathTest, LostAndOverReleasedBlocksAreFound) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        BlockAllocator allocator(2);
        allocator.Allocate();
      },
      "num_free\\(\\) == num_blocks\\(\\)");
  EXPECT_DEATH(
      {
        BlockAllocator allocator(2);
        allocator.Release(0);
      },
      "check failed");
}

TEST(BlockTable, Slots) {
  const BlockTable table{{7, 2}};
  EXPECT_EQ(table.Slot(0, 4), 28);
  EXPECT_EQ(table.Slot(3, 4), 31);
  EXPECT_EQ(table.Slot(4, 4), 8);
  EXPECT_EQ(BlocksForTokens(0, 4), 0);
  EXPECT_EQ(BlocksForTokens(4, 4), 1);
  EXPECT_EQ(BlocksForTokens(5, 4), 2);
}

PrefixCache::Match Take(PrefixCache* cache, const std::vector<int32_t>& tokens,
                        PrefixCache::NodeId root = PrefixCache::kRoot) {
  PrefixCache::Match match = cache->Take(tokens, static_cast<int>(tokens.size()), root, true);
  cache->BringBack(&match);
  return match;
}

// A sequence that computes tokens in full blocks, caches them and ends.
void Fill(BlockAllocator* allocator, PrefixCache* cache, const std::vector<int32_t>& tokens,
          int block_tokens, PrefixCache::NodeId root = PrefixCache::kRoot) {
  const PrefixCache::Match match = Take(cache, tokens, root);
  PrefixCache::NodeId node = match.node(root);
  std::vector<int32_t> blocks = match.tables[0].blocks;
  for (size_t end = (blocks.size() + 1) * block_tokens; end <= tokens.size(); end += block_tokens) {
    if (allocator->num_free() == 0) cache->EvictOne();
    blocks.push_back(allocator->Allocate());
    ASSERT_GE(blocks.back(), 0);
    node = cache->Insert(node, tokens.data() + end - block_tokens, {&blocks.back(), 1});
  }
  for (auto it = blocks.rbegin(); it != blocks.rend(); ++it) {
    if (allocator->Release(*it) == 1) cache->OnLastHolder(*it);
  }
}

int Hits(PrefixCache* cache, const std::vector<int32_t>& tokens,
         PrefixCache::NodeId root = PrefixCache::kRoot) {
  PrefixCache::Match match = cache->Take(tokens, static_cast<int>(tokens.size()), root, true);
  const int hits = match.size();
  cache->Return(&match);
  return hits;
}

TEST(PrefixCache, LongestPrefixInFullBlocks) {
  BlockAllocator allocator(8);
  PrefixCache cache(&allocator, {.block_tokens = 2});
  Fill(&allocator, &cache, {1, 2, 3, 4, 5}, 2);
  EXPECT_EQ(cache.num_entries(), 2);
  EXPECT_EQ(cache.num_evictable(), 2);
  EXPECT_EQ(Hits(&cache, {1, 2, 3, 4, 5, 6}), 2);
  EXPECT_EQ(Hits(&cache, {1, 2, 9, 4}), 1);
  EXPECT_EQ(Hits(&cache, {1, 2, 3}), 1);
  EXPECT_EQ(Hits(&cache, {3, 4}), 0) << "a middle is no prefix";
  EXPECT_EQ(Hits(&cache, {1}), 0);
}

TEST(PrefixCache, EvictsLeastRecentlyUsedAndEndsBeforeBeginnings) {
  BlockAllocator allocator(4);
  PrefixCache cache(&allocator, {.block_tokens = 1});
  Fill(&allocator, &cache, {1, 2}, 1);
  Fill(&allocator, &cache, {3, 4}, 1);
  EXPECT_EQ(Hits(&cache, {1, 2}), 2);
  ASSERT_TRUE(cache.EvictOne());
  EXPECT_EQ(Hits(&cache, {3, 4}), 1);
  EXPECT_EQ(Hits(&cache, {1, 2}), 2);
  EXPECT_EQ(allocator.num_free(), 1);
}

TEST(PrefixCache, HeldBlocksAreNotEvicted) {
  BlockAllocator allocator(2);
  PrefixCache cache(&allocator, {.block_tokens = 1});
  Fill(&allocator, &cache, {1}, 1);
  const PrefixCache::Match match = Take(&cache, {1, 2});
  ASSERT_EQ(match.tables[0].blocks.size(), 1u);
  EXPECT_FALSE(cache.EvictOne());
  EXPECT_EQ(allocator.Release(match.tables[0].blocks[0]), 1);
  cache.OnLastHolder(match.tables[0].blocks[0]);
  EXPECT_TRUE(cache.EvictOne());
  EXPECT_EQ(allocator.num_free(), 2);
}

TEST(PrefixCache, SaltsKeepPromptsApart) {
  const auto mine = PrefixCache::SaltedRoot(5), yours = PrefixCache::SaltedRoot(6);
  BlockAllocator allocator(8);
  PrefixCache cache(&allocator, {.block_tokens = 1, .hash_mask = 0});
  Fill(&allocator, &cache, {1, 2}, 1, mine);
  EXPECT_EQ(Hits(&cache, {1, 2}), 0);
  EXPECT_EQ(Hits(&cache, {1, 2}, yours), 0);
  EXPECT_EQ(Hits(&cache, {1, 2}, mine), 2);
  Fill(&allocator, &cache, {1, 2}, 1);
  EXPECT_EQ(Hits(&cache, {1, 2}), 2);
  EXPECT_EQ(cache.num_entries(), 4);
}

TEST(PrefixCache, ColdBlocksMoveToTheHostAndBack) {
  using Kind = BlockMove::Kind;
  BlockAllocator allocator(2), host(2);
  std::vector<BlockMove> moves;
  PrefixCache cache(&allocator, {.block_tokens = 1, .host = &host, .moves = &moves});
  Fill(&allocator, &cache, {1, 2}, 1);
  Fill(&allocator, &cache, {3, 4}, 1);
  // The end of a prompt goes before its beginning.
  ASSERT_EQ(moves.size(), 2u);
  EXPECT_EQ(moves[0].kind, Kind::kToHost);
  EXPECT_EQ(cache.num_on_host(), 2);
  PrefixCache::Match on_device = cache.Take({1, 2}, 2, PrefixCache::kRoot, false);
  EXPECT_EQ(on_device.size(), 0) << "the host is not looked at where copying does not pay";
  cache.Return(&on_device);
  const std::vector<BlockMove> out = moves;
  moves.clear();
  PrefixCache::Match match = cache.Take({1, 2, 9}, 3, PrefixCache::kRoot, true);
  ASSERT_EQ(match.size(), 2);
  EXPECT_EQ(match.host_blocks, 2);
  EXPECT_EQ(match.tables[0].blocks, (std::vector<int32_t>{-1, -1}));
  cache.BringBack(&match);
  // {4} and {3} make room on the device, and found none on the host: its slots were to be read yet.
  std::vector<BlockMove> in;
  for (const BlockMove& move : moves) {
    if (move.kind == Kind::kToDevice) in.push_back(move);
  }
  ASSERT_EQ(in.size(), 2u);
  EXPECT_EQ(in[0].from, out[1].to) << "the block of 1";
  EXPECT_EQ(in[1].from, out[0].to) << "the block of 2";
  EXPECT_EQ(match.tables[0].blocks, (std::vector<int32_t>{in[0].to, in[1].to}));
  cache.Return(&match);
  EXPECT_EQ(Hits(&cache, {1, 2}), 2);
  EXPECT_EQ(cache.counters().loaded, 2u);
}

TEST(PrefixCache, StoresWhatIsAskedForAgainOftenEnough) {
  BlockAllocator allocator(2), host(8);
  std::vector<BlockMove> moves;
  PrefixCache cache(&allocator, {.block_tokens = 1, .host = &host, .moves = &moves});
  const auto stored_of = [&cache, &allocator](int prompts, int distinct) {
    const uint64_t before = cache.counters().stored;
    for (int i = 0; i < prompts; ++i) Fill(&allocator, &cache, {1000 + i % distinct, 7}, 1);
    return static_cast<int>(cache.counters().stored - before);
  };
  EXPECT_GE(stored_of(500, 500), 990) << "copying costs nothing";
  cache.SetLeastReuse(0.5);
  stored_of(500, 500);
  EXPECT_LT(cache.reuse(), 0.5);
  EXPECT_EQ(stored_of(500, 500), 0) << "nobody asks for any of them again";
  // Three prompts in turn do not fit the device, but the host.
  stored_of(2000, 3);
  EXPECT_GT(cache.reuse(), 0.5);
  EXPECT_GE(stored_of(300, 3), 590);
}

TEST(PrefixCache, StoresWhatAPreemptedSequenceWillAskFor) {
  BlockAllocator allocator(2), host(8);
  std::vector<BlockMove> moves;
  PrefixCache cache(&allocator, {.block_tokens = 1, .host = &host, .moves = &moves});
  cache.SetLeastReuse(0.9);
  for (int i = 0; i < 500; ++i) Fill(&allocator, &cache, {1000 + i, 7}, 1);
  ASSERT_LT(cache.reuse(), 0.9);
  const auto stored_if_expected = [&] {
    Fill(&allocator, &cache, {1, 2}, 1);
    PrefixCache::Match match = Take(&cache, {1, 2});
    cache.Expect(match.node(PrefixCache::kRoot));
    cache.Return(&match);
    const uint64_t before = cache.counters().stored;
    Fill(&allocator, &cache, {3, 4}, 1);
    return cache.counters().stored - before;
  };
  EXPECT_EQ(stored_if_expected(), 2u);
  EXPECT_EQ(Hits(&cache, {1, 2}), 2);
  // Nor is that worth anything where the copies take longer than computing.
  cache.SetLeastReuse(1.1);
  EXPECT_EQ(stored_if_expected(), 0u);
  // Once it was asked for, it is as likely as any other.
  cache.SetLeastReuse(0.9);
  Fill(&allocator, &cache, {1, 2}, 1);
  PrefixCache::Match match = Take(&cache, {1, 2});
  cache.Expect(match.node(PrefixCache::kRoot));
  cache.Met(match);
  cache.Return(&match);
  const uint64_t before = cache.counters().stored;
  Fill(&allocator, &cache, {5, 6}, 1);
  EXPECT_EQ(cache.counters().stored, before);
}

TEST(PrefixCache, OnlyTheWindowMustBeThere) {
  BlockAllocator allocator(4);
  PrefixCache cache(&allocator, {.block_tokens = 1, .windows = {3}});
  // Released from the front, as a window slides.
  PrefixCache::NodeId node = PrefixCache::kRoot;
  const std::vector<int32_t> tokens = {5, 6, 7, 8};
  std::vector<int32_t> blocks;
  for (const int32_t& token : tokens) {
    blocks.push_back(allocator.Allocate());
    node = cache.Insert(node, &token, {&blocks.back(), 1});
  }
  for (const int32_t block : blocks) {
    if (allocator.Release(block) == 1) cache.OnLastHolder(block);
  }
  ASSERT_TRUE(cache.EvictOne());
  PrefixCache::Match match = cache.Take({5, 6, 7, 8, 9}, 4, PrefixCache::kRoot, true);
  EXPECT_EQ(match.size(), 4);
  EXPECT_EQ(match.tables[0].first_block, 2) << "a token at 4 sees 2, 3 and itself";
  cache.Return(&match);
  EXPECT_EQ(Hits(&cache, {5, 6}), 0) << "a token at 2 would see 0";
  EXPECT_EQ(Hits(&cache, {5, 6, 7}), 3);
  EXPECT_EQ(cache.num_entries(), 4) << "the way to the others stays";
  while (cache.EvictOne()) {
  }
  EXPECT_EQ(cache.num_entries(), 0);
}

// Blocks of both groups for each token, group by group, released from the front.
void FillBoth(BlockAllocator* allocator, PrefixCache* cache, const std::vector<int32_t>& tokens) {
  PrefixCache::NodeId node = PrefixCache::kRoot;
  std::vector<int32_t> blocks;
  for (const int32_t& token : tokens) {
    const int32_t pair[] = {allocator->Allocate(), allocator->Allocate()};
    node = cache->Insert(node, &token, pair);
    blocks.insert(blocks.end(), pair, pair + 2);
  }
  for (const int group : {1, 0}) {
    for (size_t i = group; i < blocks.size(); i += 2) {
      if (allocator->Release(blocks[i]) == 1) cache->OnLastHolder(blocks[i]);
    }
  }
}

TEST(PrefixCache, AGroupThatSlidesNeedsItsWindowBesideOneThatDoesNot) {
  BlockAllocator allocator(8);
  PrefixCache cache(&allocator, {.block_tokens = 1, .windows = {0, 3}});
  FillBoth(&allocator, &cache, {5, 6, 7, 8});
  EXPECT_EQ(cache.num_evictable(), 8);
  ASSERT_TRUE(cache.EvictOne());  // what the second group has of 5
  EXPECT_EQ(cache.num_entries(), 4);
  PrefixCache::Match match = cache.Take({5, 6, 7, 8, 9}, 4, PrefixCache::kRoot, true);
  ASSERT_EQ(match.size(), 4);
  EXPECT_EQ(match.tables[0].first_block, 0);
  EXPECT_EQ(match.tables[1].first_block, 2);
  EXPECT_EQ(cache.num_evictable(), 1) << "of 6 in the second group";
  for (const int32_t block : match.tables[0].blocks) EXPECT_EQ(allocator.ref_count(block), 2);
  cache.Return(&match);
  EXPECT_EQ(Hits(&cache, {5, 6}), 0) << "a token at 2 would see 0";
  EXPECT_EQ(Hits(&cache, {5, 6, 7}), 3);
  // What was evicted is taken from whoever computes it again, and the rest stays.
  int32_t again[] = {allocator.Allocate(), -1};
  again[1] = again[0];
  const int32_t token = 5;
  cache.Insert(PrefixCache::kRoot, &token, again);
  EXPECT_EQ(allocator.ref_count(again[0]), 2);
  EXPECT_EQ(allocator.Release(again[0]), 1);
  cache.OnLastHolder(again[0]);
  EXPECT_EQ(Hits(&cache, {5, 6}), 2);
}

TEST(PrefixCache, WithoutWhatSeesEverythingTheRestGoesToo) {
  BlockAllocator allocator(8);
  PrefixCache cache(&allocator, {.block_tokens = 1, .windows = {0, 3}});
  FillBoth(&allocator, &cache, {5, 6});
  // The second group's parts are used last.
  const PrefixCache::Match match = Take(&cache, {5, 6});
  for (const BlockTable& table : match.tables) {
    for (const int32_t block : table.blocks) {
      ASSERT_EQ(allocator.Release(block), 1);
      cache.OnLastHolder(block);
    }
  }
  ASSERT_TRUE(cache.EvictOne());
  EXPECT_EQ(allocator.num_free(), 6) << "both parts of 5";
  EXPECT_EQ(cache.num_entries(), 1);
  EXPECT_EQ(Hits(&cache, {5, 6}), 0);
  EXPECT_EQ(cache.num_evictable(), 2);
}

TEST(PrefixCache, CollidingHashesNeverMixPrompts) {
  std::mt19937 random(5);
  BlockAllocator allocator(64);
  PrefixCache cache(&allocator, {.block_tokens = 2, .hash_mask = 1});
  std::set<std::vector<int32_t>> known;  // every prefix of full blocks that was filled
  for (int round = 0; round < 20; ++round) {
    std::vector<int32_t> tokens(6);
    for (int32_t& id : tokens) id = static_cast<int32_t>(random() % 2);
    int expected = 0;
    for (int blocks = 1; blocks <= 3; ++blocks) {
      if (known.contains({tokens.begin(), tokens.begin() + 2 * blocks})) expected = blocks;
    }
    ASSERT_EQ(Hits(&cache, tokens), expected);
    Fill(&allocator, &cache, tokens, 2);
    if (::testing::Test::HasFatalFailure()) return;
    for (int blocks = 1; blocks <= 3; ++blocks) {
      known.insert({tokens.begin(), tokens.begin() + 2 * blocks});
    }
  }
}

}  // namespace
}  // namespace palu
