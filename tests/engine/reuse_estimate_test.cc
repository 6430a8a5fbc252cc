// Blocks that leave, of which a known share is asked for again.
#include "engine/cache/reuse_estimate.h"

#include <gtest/gtest.h>

namespace palu {
namespace {

// That many leave for good, each of which is asked for again after a while if its number says so.
void LeaveAndAsk(ReuseEstimate* estimate, uint64_t first, int count, int one_of) {
  constexpr int kDelay = 50;
  for (uint64_t hash = first; hash < first + count; ++hash) {
    estimate->Lost(hash);
    const uint64_t old = hash - kDelay;
    if (old >= first && old < hash && one_of > 0 && old % one_of == 0) {
      EXPECT_TRUE(estimate->AskForLost(old));
    }
  }
}

TEST(ReuseEstimate, FindsTheShareAndFollowsIt) {
  ReuseEstimate estimate(1000);
  EXPECT_EQ(estimate.value(), 1);
  LeaveAndAsk(&estimate, 1, 20000, 4);
  EXPECT_NEAR(estimate.value(), 0.25, 0.03);
  LeaveAndAsk(&estimate, 100000, 20000, 0);
  EXPECT_LT(estimate.value(), 0.05);
  LeaveAndAsk(&estimate, 200000, 20000, 2);
  EXPECT_NEAR(estimate.value(), 0.5, 0.05);
}

TEST(ReuseEstimate, WhatCameBackFromTheHostCountsLikewise) {
  ReuseEstimate estimate(1000);
  for (int i = 0; i < 20000; ++i) {
    estimate.Stored();
    if (i % 5 == 0) estimate.Loaded();
  }
  EXPECT_NEAR(estimate.value(), 0.2, 0.03);
}

TEST(ReuseEstimate, RemembersAsManyAsTheHostWouldHold) {
  ReuseEstimate estimate(10);
  for (uint64_t hash = 0; hash <= 10; ++hash) estimate.Lost(hash);
  estimate.Lost(10);
  EXPECT_FALSE(estimate.AskForLost(0)) << "the host would have dropped it";
  for (uint64_t hash = 1; hash <= 10; ++hash) {
    EXPECT_TRUE(estimate.AskForLost(hash));
    EXPECT_FALSE(estimate.AskForLost(hash)) << "it was counted";
  }
}

}  // namespace
}  // namespace palu
