#include "kernels/cpu/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/kernels/reference/float_formats.h"

namespace palu::cpu {
namespace {

TEST(HalfTest, EveryPatternWidensToItsValue) {
  for (uint32_t bits = 0; bits < 1u << 16; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const double f16 = reference::F16Value(half), bf16 = reference::BF16Value(half);
    if (std::isnan(f16)) {
      EXPECT_TRUE(std::isnan(F16ToF32(half)));
    } else {
      ASSERT_EQ(F16ToF32(half), f16);
      ASSERT_EQ(F32ToF16(F16ToF32(half)), half);
    }
    if (std::isnan(bf16)) {
      EXPECT_TRUE(std::isnan(Bf16ToF32(half)));
    } else {
      ASSERT_EQ(Bf16ToF32(half), static_cast<float>(bf16));
      ASSERT_EQ(F32ToBf16(Bf16ToF32(half)), half);
    }
  }
}

// Neighbours of every halfway point and random numbers round as the reference does.
TEST(HalfTest, NarrowsToNearestEven) {
  std::mt19937 engine(1);
  for (int i = 0; i < 300000; ++i) {
    uint32_t bits = engine();
    if (i % 3 == 1) bits = (bits & 0xffff0000u) + 0x7fffu + engine() % 3;
    if (i % 3 == 2) bits = (bits & 0xbfffe000u) + 0xfffu + engine() % 3;
    const float value = BitsFloat(bits);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(F16ToF32(F32ToF16(value))));
      ASSERT_TRUE(std::isnan(Bf16ToF32(F32ToBf16(value))));
      continue;
    }
    ASSERT_EQ(F32ToF16(value), reference::F16Bits(value)) << value;
    ASSERT_EQ(F32ToBf16(value), reference::BF16Bits(value)) << value;
  }
}

}  // namespace
}  // namespace palu::cpu
