// How layers are divided into groups, and what sequences then take.
#include "engine/cache/layer_groups.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "engine/cache/block_table.h"

namespace palu {
namespace {

// Keys and values of `numbers` bf16 numbers a token together.
LayerSpec Dense(int numbers) {
  ProjectionSpec spec;
  spec.ranks = {numbers / 2};
  return {spec, spec};
}

// Every period-th layer sees everything.
std::vector<int> Alternating(int layers, int period, int window) {
  std::vector<int> windows(layers, window);
  for (int layer = period - 1; layer < layers; layer += period) windows[layer] = 0;
  return windows;
}

std::vector<int> Sizes(const std::vector<LayerGroup>& groups) {
  std::vector<int> sizes;
  for (const LayerGroup& group : groups) sizes.push_back(static_cast<int>(group.layers.size()));
  return sizes;
}

TEST(LayerGroups, OneOfAKindIsOneGroup) {
  const std::vector<LayerSpec> layers(4, Dense(64));
  for (const std::vector<int>& windows :
       {std::vector<int>{0, 0, 0, 0}, std::vector<int>{24, 32, 24, 24}}) {
    const auto groups = GroupLayers(layers, windows, 16, 32768, 512);
    EXPECT_EQ(Sizes(groups), std::vector<int>{4});
    EXPECT_EQ(groups[0].window_tokens, windows[1]);
  }
}

TEST(LayerGroups, GemmasLayersFillBlocksOfOneSize) {
  // Gemma 3 27B: 62 layers, ten of which see everything; no group of six can be full.
  struct Case {
    int layers;
    std::vector<int> sizes;
  };
  for (const Case& model : {Case{6, {1, 1, 1, 1, 1, 1}}, Case{26, {4, 4, 4, 4, 4, 4, 2}},
                            Case{48, {8, 8, 8, 8, 8, 8}}, Case{62, {10, 10, 10, 10, 10, 10, 2}}}) {
    const std::vector<LayerSpec> layers(model.layers, Dense(64));
    const auto groups = GroupLayers(layers, Alternating(model.layers, 6, 1024), 16, 32768, 512);
    EXPECT_EQ(Sizes(groups), model.sizes);
    EXPECT_EQ(groups[0].window_tokens, 0);
    EXPECT_EQ(groups[0].layers[0], 5);
    EXPECT_EQ(groups[1].window_tokens, 1024);
    const LatentLayout layout(layers, 16, groups);
    EXPECT_EQ(layout.num_groups(), static_cast<int>(groups.size()));
    EXPECT_EQ(layout.block_bytes(), model.sizes[0] * 16 * 64 * 2);
    EXPECT_EQ(layout.layers()[5].key[0].codes_offset, 0);
    EXPECT_EQ(layout.layers()[0].key[0].codes_offset, 0) << "of a block of its own group";
  }
}

TEST(LayerGroups, AreNotMadeWhereNothingFallsOut) {
  const std::vector<LayerSpec> layers(6, Dense(64));
  EXPECT_EQ(GroupLayers(layers, Alternating(6, 6, 1024), 16, 1024, 512).size(), 1u);
  EXPECT_EQ(GroupLayers(layers, Alternating(6, 6, 1024), 16, 4096, 512).size(), 6u);
}

TEST(LayerGroups, EveryLayerOnceAndNeverBothKinds) {
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    const int count = 2 + static_cast<int>(random() % 30);
    std::vector<LayerSpec> layers;
    std::vector<int> windows;
    int64_t bytes = 0;
    for (int layer = 0; layer < count; ++layer) {
      layers.push_back(Dense(16 * (1 + static_cast<int>(random() % 8))));
      windows.push_back(random() % 3 == 0 ? 0 : 100 + static_cast<int>(random() % 2));
      bytes += LatentLayout({layers.back()}, 16).block_bytes();
    }
    const auto groups = GroupLayers(layers, windows, 16, 4096, 64);
    std::set<int> seen;
    for (const LayerGroup& group : groups) {
      for (const int layer : group.layers) {
        EXPECT_TRUE(seen.insert(layer).second);
        if (groups.size() > 1) {
          EXPECT_EQ(windows[layer] > 0, group.window_tokens > 0);
          EXPECT_LE(windows[layer], group.window_tokens);
        }
      }
    }
    EXPECT_EQ(static_cast<int>(seen.size()), count);
    EXPECT_LE(groups.size(), 8u);
    const LatentLayout layout(layers, 16, groups);
    EXPECT_LE(layout.block_bytes() * layout.num_groups(), bytes * 5 / 4);
  }
}

// What keys the prefix cache's hashes.
TEST(LatentLayout, FingerprintsTellCachesOfDifferentFormsApart) {
  const std::vector<LayerSpec> layers(6, Dense(64));
  const std::vector<int> windows = Alternating(6, 6, 1024);
  LayerSpec int8 = Dense(64), wider_keys = Dense(64);
  int8.value.format = LatentFormat::kInt8;
  wider_keys.key.ranks = {64};
  std::vector<LayerSpec> one_int8 = layers, one_wider = layers;
  one_int8[3] = int8;
  one_wider[3] = wider_keys;
  const std::set<uint64_t> prints = {
      LatentLayout(layers, 16).Fingerprint(),
      LatentLayout(layers, 32).Fingerprint(),
      LatentLayout(one_int8, 16).Fingerprint(),
      LatentLayout(one_wider, 16).Fingerprint(),
      LatentLayout(layers, 16, GroupLayers(layers, windows, 16, 32768, 512)).Fingerprint(),
      LatentLayout(std::vector<LayerSpec>(5, Dense(64)), 16).Fingerprint()};
  EXPECT_EQ(prints.size(), 6u);
  EXPECT_EQ(prints.count(LatentLayout(layers, 16).Fingerprint()), 1u) << "not by chance";
}

// Walks through a sequence and counts, as the scheduler would give blocks out and take them back.
int64_t MostHeld(const BlockDemand& demand, int tokens, int chunk) {
  int64_t most = 0;
  for (int computed = 0; computed < tokens; computed += chunk) {
    int64_t held = 0;
    const int end = std::min(tokens, computed + chunk);
    for (const int window : demand.windows) {
      std::set<int> blocks;
      const int first = window > 0 ? std::max(0, computed - window + 1) : 0;
      for (int position = first; position < end; ++position) {
        blocks.insert(position / demand.block_tokens);
      }
      held += static_cast<int64_t>(blocks.size());
    }
    most = std::max(most, held);
  }
  return most;
}

TEST(BlockDemand, CoversWhatASequenceHoldsAndLittleMore) {
  std::mt19937 random(4);
  for (int round = 0; round < 500; ++round) {
    const int window = 1 + static_cast<int>(random() % 40);
    const int chunk = 1 + static_cast<int>(random() % 20);
    BlockDemand demand{1 + static_cast<int>(random() % 6), {0, window, window}, chunk};
    const bool all_slide = round % 2 == 1;
    if (all_slide) demand.windows = {window};
    const int tokens = 1 + static_cast<int>(random() % 200);
    const int64_t held = MostHeld(demand, tokens, chunk);
    EXPECT_GE(demand.BlocksOf(tokens), held);
    if (tokens >= window + 2 * chunk) {
      // Two partial blocks, and what the last whole chunk had not yet computed.
      EXPECT_LE(demand.BlocksOf(tokens), held + 2 * 3 + chunk / demand.block_tokens + 1);
    }
    const int64_t pool = 3 + static_cast<int>(random() % 100);
    const int64_t longest = demand.LongestIn(pool);
    EXPECT_LE(demand.BlocksOf(longest), pool);
    if (all_slide && demand.BlocksOf(1 << 20) <= pool) {
      EXPECT_GT(longest, BlockDemand::kAnyLength - demand.block_tokens) << "nothing bounds it";
    } else {
      EXPECT_GT(demand.BlocksOf(longest + 1), pool);
    }
  }
}

TEST(BlockDemand, ASequenceThatIsAloneCanStartWhateverItFindsCached) {
  std::mt19937 random(5);
  for (int round = 0; round < 20000; ++round) {
    const int window = 1 + static_cast<int>(random() % 30);
    const int chunk = 1 + static_cast<int>(random() % 12);
    BlockDemand demand{1 + static_cast<int>(random() % 6), {0, window}, chunk};
    if (round % 2 == 1) demand.windows = {window};
    const int length = 1 + static_cast<int>(random() % 150);
    const int hits = static_cast<int>(random() % length) / demand.block_tokens;
    const int cached = hits * demand.block_tokens;
    const int sliding = demand.num_groups() - 1;
    int64_t blocks = sliding == 1 ? BlocksForTokens(length, demand.block_tokens) : 0;
    blocks += BlocksForTokens(demand.TokensAtStart(sliding, cached, length), demand.block_tokens);
    blocks -= FirstBlockInWindow(cached, window, demand.block_tokens);
    ASSERT_LE(blocks, demand.BlocksOf(length));
    // Its first chunk may begin anywhere in the block that comes back from the host.
    const int computed = std::min(length - 1, cached + demand.block_tokens - 1);
    ASSERT_GE(demand.TokensAtStart(sliding, cached, length), std::min(length, computed + chunk));
  }
}

TEST(BlockDemand, WithoutWindowsThereIsABlockForEveryBlockOfTokens) {
  const BlockDemand demand{.block_tokens = 4, .windows = {0}, .chunk_tokens = 2};
  EXPECT_EQ(demand.BlocksOf(401), 101);
  EXPECT_EQ(demand.LongestIn(100), 400);
  EXPECT_EQ(demand.TokensIn(100, 64), 400);
  EXPECT_EQ(demand.TokensAtStart(0, 0, 401), 401);
}

TEST(BlockDemand, WhereAllLayersSlideAWindowAndAChunkBoundIt) {
  const BlockDemand demand{.block_tokens = 4, .windows = {8}, .chunk_tokens = 2};
  EXPECT_EQ(demand.BlocksOf(12), 3);
  EXPECT_EQ(demand.BlocksOf(401), 3 + 2);
  EXPECT_EQ(demand.LongestIn(4), 16);
  EXPECT_GT(demand.LongestIn(5), 1 << 30);
  EXPECT_EQ(demand.TokensIn(100, 400), 100 * 400 / 5);
  EXPECT_EQ(demand.TokensAtStart(0, 0, 401), 8 + 2);
  EXPECT_EQ(demand.TokensAtStart(0, 100, 401), 100 + 4 + 2);
}

}  // namespace
}  // namespace palu
