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

// A sequence that computes tokens in full blocks, caches them and ends.
void Fill(BlockAllocator* allocator, PrefixCache* cache, const std::vector<int32_t>& tokens,
          int block_tokens) {
  PrefixCache::Match match = cache->Take(tokens, static_cast<int>(tokens.size()));
  std::vector<int32_t> blocks = match.blocks;
  for (size_t end = (blocks.size() + 1) * block_tokens; end <= tokens.size(); end += block_tokens) {
    blocks.push_back(allocator->Allocate());
    ASSERT_GE(blocks.back(), 0);
    match.node = cache->Insert(match.node, tokens.data() + end - block_tokens, blocks.back());
  }
  for (auto it = blocks.rbegin(); it != blocks.rend(); ++it) {
    if (allocator->Release(*it) == 1) cache->OnLastHolder(*it);
  }
}

int Hits(BlockAllocator* allocator, PrefixCache* cache, const std::vector<int32_t>& tokens) {
  const PrefixCache::Match match = cache->Take(tokens, static_cast<int>(tokens.size()));
  for (auto it = match.blocks.rbegin(); it != match.blocks.rend(); ++it) {
    if (allocator->Release(*it) == 1) cache->OnLastHolder(*it);
  }
  return static_cast<int>(match.blocks.size());
}

TEST(PrefixCache, LongestPrefixInFullBlocks) {
  BlockAllocator allocator(8);
  PrefixCache cache(&allocator, 2);
  Fill(&allocator, &cache, {1, 2, 3, 4, 5}, 2);
  EXPECT_EQ(cache.num_entries(), 2);
  EXPECT_EQ(cache.num_evictable(), 2);
  EXPECT_EQ(Hits(&allocator, &cache, {1, 2, 3, 4, 5, 6}), 2);
  EXPECT_EQ(Hits(&allocator, &cache, {1, 2, 9, 4}), 1);
  EXPECT_EQ(Hits(&allocator, &cache, {1, 2, 3}), 1);
  EXPECT_EQ(Hits(&allocator, &cache, {3, 4}), 0) << "a middle is no prefix";
  EXPECT_EQ(Hits(&allocator, &cache, {1}), 0);
}

TEST(PrefixCache, EvictsLeastRecentlyUsedAndEndsBeforeBeginnings) {
  BlockAllocator allocator(4);
  PrefixCache cache(&allocator, 1);
  Fill(&allocator, &cache, {1, 2}, 1);
  Fill(&allocator, &cache, {3, 4}, 1);
  EXPECT_EQ(Hits(&allocator, &cache, {1, 2}), 2);
  ASSERT_TRUE(cache.EvictOne());
  EXPECT_EQ(Hits(&allocator, &cache, {3, 4}), 1);
  EXPECT_EQ(Hits(&allocator, &cache, {1, 2}), 2);
  EXPECT_EQ(allocator.num_free(), 1);
}

TEST(PrefixCache, HeldBlocksAreNotEvicted) {
  BlockAllocator allocator(2);
  PrefixCache cache(&allocator, 1);
  Fill(&allocator, &cache, {1}, 1);
  const PrefixCache::Match match = cache.Take({1, 2}, 2);
  ASSERT_EQ(match.blocks.size(), 1u);
  EXPECT_FALSE(cache.EvictOne());
  EXPECT_EQ(allocator.Release(match.blocks[0]), 1);
  cache.OnLastHolder(match.blocks[0]);
  EXPECT_TRUE(cache.EvictOne());
  EXPECT_EQ(allocator.num_free(), 2);
}

TEST(PrefixCache, CollidingHashesNeverMixPrompts) {
  std::mt19937 random(5);
  BlockAllocator allocator(64);
  PrefixCache cache(&allocator, 2, /*hash_mask=*/1);
  std::set<std::vector<int32_t>> known;  // every prefix of full blocks that was filled
  for (int round = 0; round < 20; ++round) {
    std::vector<int32_t> tokens(6);
    for (int32_t& id : tokens) id = static_cast<int32_t>(random() % 2);
    int expected = 0;
    for (int blocks = 1; blocks <= 3; ++blocks) {
      if (known.contains({tokens.begin(), tokens.begin() + 2 * blocks})) expected = blocks;
    }
    ASSERT_EQ(Hits(&allocator, &cache, tokens), expected);
    Fill(&allocator, &cache, tokens, 2);
    if (::testing::Test::HasFatalFailure()) return;
    for (int blocks = 1; blocks <= 3; ++blocks) {
      known.insert({tokens.begin(), tokens.begin() + 2 * blocks});
    }
  }
}

}  // namespace
}  // namespace palu
