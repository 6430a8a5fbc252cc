// What is learned from steps, against devices of known speed.
#include "engine/step_cost.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

namespace palu {
namespace {

// Steps of a device on which a token takes that long beside a fixed cost; returns the last step's
// time. There is always more prompt than fits.
double RunDevice(StepCost* cost, int steps, int decodes, double fixed, double per_token) {
  double seconds = 0;
  for (int i = 0; i < steps; ++i) {
    const int tokens = decodes + cost->chunk_tokens();
    seconds = fixed + per_token * tokens;
    cost->Observe(tokens, decodes, true, seconds);
  }
  return seconds;
}

TEST(StepCost, ChunkSettlesBelowTheTarget) {
  StepCost cost(0.050, 2048, 0);
  EXPECT_EQ(cost.chunk_tokens(), 2048);
  const double seconds = RunDevice(&cost, 60, 16, 0.005, 100e-6);
  EXPECT_LE(seconds, 0.050 * 1.01);
  EXPECT_GE(seconds, 0.050 * 0.7);
  // A device that becomes faster is used again.
  RunDevice(&cost, 60, 16, 0.001, 5e-6);
  EXPECT_EQ(cost.chunk_tokens(), 2048);
}

TEST(StepCost, PromptsGetOnHoweverSlowTheDeviceIs) {
  StepCost cost(0.001, 512, 0);
  RunDevice(&cost, 50, 16, 1.0, 0);
  EXPECT_EQ(cost.chunk_tokens(), 16);
  StepCost tiny(0.001, 4, 0);
  RunDevice(&tiny, 50, 1, 1.0, 0);
  EXPECT_EQ(tiny.chunk_tokens(), 4);
}

TEST(StepCost, WithoutATargetPromptsTakeAll) {
  StepCost cost(0, 512, 0);
  RunDevice(&cost, 10, 4, 10.0, 0);
  EXPECT_EQ(cost.chunk_tokens(), 512);
}

TEST(StepCost, CopyPaysIfItIsFasterThanComputing) {
  StepCost cost(0, 512, 1e-3);
  EXPECT_TRUE(cost.CopyPays(1, 16)) << "nothing is known yet";
  cost.Observe(200, 0, true, 200 * 1e-4);
  EXPECT_NEAR(cost.seconds_per_token(), 1e-4, 1e-9);
  EXPECT_TRUE(cost.CopyPays(1, 16));
  EXPECT_FALSE(cost.CopyPays(2, 16));
  EXPECT_FALSE(cost.CopyPays(1, 9));
}

TEST(StepCost, StoringPaysIfEnoughIsAskedForAgain) {
  StepCost cost(0, 512, 1e-3);
  EXPECT_EQ(cost.LeastReuse(16), 0) << "nothing is known yet";
  cost.Observe(200, 0, true, 200 * 1e-4);
  // 100 blocks out take 100 ms. Of 50 back at 1 ms each, 50 are saved that take 3 ms to compute.
  EXPECT_NEAR(cost.LeastReuse(30), 0.5, 1e-6);
  EXPECT_NEAR(cost.LeastReuse(20), 1, 1e-6);
  EXPECT_GT(cost.LeastReuse(15), 1) << "not even if all are";
  EXPECT_GT(cost.LeastReuse(10), 1e9) << "the way back alone takes as long";
}

TEST(StepCost, ClocksThatJumpAreNotBelieved) {
  StepCost cost(0.05, 512, 0);
  for (const double seconds : {0.0, -3.0, std::numeric_limits<double>::infinity(),
                               std::numeric_limits<double>::quiet_NaN()}) {
    cost.Observe(100, 1, true, seconds);
  }
  EXPECT_EQ(cost.chunk_tokens(), 512);
  EXPECT_EQ(cost.seconds_per_token(), 0);
}

}  // namespace
}  // namespace palu
