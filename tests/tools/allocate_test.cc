#include "tools/compress/allocate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "tools/compress/predict.h"

namespace palu {
namespace {

TEST(SplitBlocks, SumIsExactAndCapsHold) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 500; ++trial) {
    const int n = 1 + static_cast<int>(random() % 12);
    std::vector<double> scores;
    std::vector<int> caps;
    for (int i = 0; i < n; ++i) {
      scores.push_back(std::exp(static_cast<double>(random() % 100) / 10 - 5));
      caps.push_back(1 + static_cast<int>(random() % 16));
    }
    const int most = std::accumulate(caps.begin(), caps.end(), 0);
    const int total = 1 + static_cast<int>(random() % (most + 5));
    const std::vector<int> blocks = SplitBlocks(scores, caps, total);
    EXPECT_EQ(std::accumulate(blocks.begin(), blocks.end(), 0), std::clamp(total, n, most));
    for (int i = 0; i < n; ++i) {
      EXPECT_GE(blocks[i], 1);
      EXPECT_LE(blocks[i], caps[i]);
    }
  }
}

TEST(SplitBlocks, IsProportionalAndGivesOnWhatDoesNotFit) {
  EXPECT_EQ(SplitBlocks({1, 2, 3}, {16, 16, 16}, 12), (std::vector<int>{2, 4, 6}));
  EXPECT_EQ(SplitBlocks({1, 1, 100}, {16, 16, 8}, 16), (std::vector<int>{4, 4, 8}));
  EXPECT_EQ(SplitBlocks({0, 0, 0}, {4, 4, 4}, 6), (std::vector<int>{2, 2, 2}));
}

TEST(RankBlock, DividesTheWidth) {
  EXPECT_EQ(RankBlock(256), 16);
  EXPECT_EQ(RankBlock(24), 8);
  EXPECT_EQ(RankBlock(10), 2);
}

TEST(MakeSpec, FullRankFallsBackToDenseOnlyAtSixteenBits) {
  EXPECT_TRUE(MakeSpec({128, 128}, 2, 64, LatentFormat::kF16).dense);
  EXPECT_FALSE(MakeSpec({128, 112}, 2, 64, LatentFormat::kF16).dense);
  EXPECT_FALSE(MakeSpec({128, 128}, 2, 64, LatentFormat::kInt4).dense);
}

TEST(SpreadRanks, TakesTheLargestSingularValues) {
  ProjectionFactors factors;
  factors.groups.resize(2);
  factors.width = 64;
  for (int g = 0; g < 2; ++g) {
    factors.groups[g].loss = VectorD::LinSpaced(64, g == 0 ? 10.0 : 1.0, 0.5);
  }
  EXPECT_EQ(SpreadRanks(factors, 2), (std::vector<int>{16, 16}));
  EXPECT_EQ(SpreadRanks(factors, 5), (std::vector<int>{64, 16}));
  EXPECT_EQ(SpreadRanks(factors, 8), (std::vector<int>{64, 64}));
}

TEST(NormalRange, MatchesMonteCarlo) {
  std::mt19937 random(2);
  std::normal_distribution<double> normal;
  for (const int n : {16, 64, 256}) {
    double sum = 0;
    constexpr int kTrials = 4000;
    for (int trial = 0; trial < kTrials; ++trial) {
      double low = 0, high = 0;
      for (int i = 0; i < n; ++i) {
        const double x = normal(random);
        low = std::min(low, x);
        high = std::max(high, x);
      }
      sum += high - low;
    }
    EXPECT_NEAR(NormalRange(n), sum / kTrials, 0.02 * NormalRange(n)) << n;
  }
}

// Against trying everything.
TEST(Knapsack, IsOptimal) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<std::vector<int64_t>> bytes(4);
    std::vector<std::vector<double>> cost(4);
    int64_t smallest = 0;
    for (int i = 0; i < 4; ++i) {
      for (int c = 0; c < 5; ++c) {
        bytes[i].push_back(4 + 2 * static_cast<int64_t>(random() % 20));
        cost[i].push_back(static_cast<double>(random() % 1000));
      }
      smallest += *std::min_element(bytes[i].begin(), bytes[i].end());
    }
    const int64_t budget = smallest + static_cast<int64_t>(random() % 60);
    double best = 1e300;
    for (int code = 0; code < 625; ++code) {
      const int pick[] = {code % 5, code / 5 % 5, code / 25 % 5, code / 125};
      int64_t size = 0;
      double total = 0;
      for (int i = 0; i < 4; ++i) {
        size += bytes[i][pick[i]];
        total += cost[i][pick[i]];
      }
      if (size <= budget) best = std::min(best, total);
    }
    const std::vector<int> chosen = Knapsack(bytes, cost, budget);
    int64_t size = 0;
    double total = 0;
    for (int i = 0; i < 4; ++i) {
      size += bytes[i][chosen[i]];
      total += cost[i][chosen[i]];
    }
    EXPECT_LE(size, budget);
    EXPECT_DOUBLE_EQ(total, best);
  }
}

TEST(Knapsack, SaysWhatTheSmallestCacheIs) {
  try {
    Knapsack({{10, 20}, {30}}, {{1, 0}, {0}}, 39);
    FAIL();
  } catch (const CompressError& error) {
    EXPECT_NE(std::string(error.what()).find("40 bytes"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace palu
