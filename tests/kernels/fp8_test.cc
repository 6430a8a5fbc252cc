// fp8 (OCP E4M3): the conversions, and rows of it written to and read from a cache by every
// backend.
#include <cmath>
#include <limits>
#include <random>

#include "kernels/cpu/half.h"
#include "tests/kernels/latent_fixture.h"

namespace palu {
namespace {

using cpu::BitsFloat;
using cpu::F32ToFp8;
using cpu::Fp8ToF32;

// The values of OCP's table, and no other code that is no number.
TEST(Fp8Test, EveryCodeWidensToItsValue) {
  for (int code = 0; code < 256; ++code) {
    const auto bits = static_cast<uint8_t>(code);
    const float value = Fp8ToF32(bits);
    if (code == 0x7f || code == 0xff) {
      EXPECT_TRUE(std::isnan(value)) << code;
      EXPECT_EQ(F32ToFp8(value), bits);
      continue;
    }
    EXPECT_EQ(value, reference::Fp8Value(bits)) << code;
    EXPECT_EQ(std::signbit(value), code >= 128);
    EXPECT_EQ(F32ToFp8(value), bits);
  }
  EXPECT_EQ(Fp8ToF32(0x7e), 448.0f);
  EXPECT_EQ(Fp8ToF32(0x38), 1.0f);
  EXPECT_EQ(Fp8ToF32(0x08), 0x1p-6f);
  EXPECT_EQ(Fp8ToF32(0x01), 0x1p-9f);
}

// Halfway points with their neighbours, subnormals and zeros, and numbers of every size.
TEST(Fp8Test, NarrowsToNearestEvenAndSaturates) {
  const auto check = [](float value) {
    for (const float x : {value, -value, std::nextafter(value, 1e9f), std::nextafter(value, 0.0f)})
      ASSERT_EQ(F32ToFp8(x), reference::Fp8Bits(x)) << x;
  };
  for (int code = 0; code < 0x7e; ++code) {
    const float low = Fp8ToF32(static_cast<uint8_t>(code));
    check(low);
    check(0.5f * (low + Fp8ToF32(static_cast<uint8_t>(code + 1))));
  }
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float large : {448.0f, 456.0f, 464.0f, 480.0f, 65504.0f, 3e38f, infinity}) {
    EXPECT_EQ(F32ToFp8(large), 0x7e);
    EXPECT_EQ(F32ToFp8(-large), 0xfe);
  }
  EXPECT_EQ(F32ToFp8(std::numeric_limits<float>::denorm_min()), 0);
  std::mt19937 engine(2);
  for (int i = 0; i < 20000; ++i) {
    const float value = BitsFloat(engine());
    if (!std::isnan(value)) {
      ASSERT_EQ(F32ToFp8(value), reference::Fp8Bits(value)) << value;
    }
  }
}

using Fp8LatentTest = KernelTest;

constexpr int kHeadDim = 64, kTokens = 256 / kHeadDim;

// A dense cache of one head in which token t holds codes kHeadDim * t on, as keys zeros.
struct CodeCache {
  std::vector<LatentSegment> key, value;
  HostPool pool{kTokens, 0, 0};
};

CodeCache MakeCodeCache(bool with_nan) {
  CodeCache cache;
  int64_t offset = 16;
  cache.key = MakeSegments(LatentFormat::kFp8, {kHeadDim}, kTokens, &offset);
  cache.value = MakeSegments(LatentFormat::kFp8, {kHeadDim}, kTokens, &offset);
  cache.pool = HostPool(kTokens, offset, 1);
  for (int t = 0; t < kTokens; ++t) {
    cache.pool.Write(cache.key[0], t, std::vector<double>(kHeadDim, 0.0));
    for (int d = 0; d < kHeadDim; ++d) {
      const int code = t * kHeadDim + d;
      cache.pool.Codes(cache.value[0], t)[d] =
          with_nan || code % 128 != 127 ? static_cast<uint8_t>(code) : 0;
    }
  }
  return cache;
}

// Each query attends to its own token alone, whose value it therefore returns: as a prompt (without
// NaN, which in a tile of queries may reach others as 0 * NaN), and as decodes.
TEST_P(Fp8LatentTest, EveryCodeIsReadAsItsValue) {
  for (const bool prompt : {true, false}) {
    CodeCache cache = MakeCodeCache(!prompt);
    SCOPED_TRACE(prompt ? "prompt" : "decode");
    DeviceArrays arrays(backend_.get());
    const int sequences = prompt ? 1 : kTokens;
    LatentAttentionArgs args;
    args.q = arrays.PutActivations(std::vector<double>(256, 0.5), {kTokens, 1, kHeadDim});
    args.out = arrays.NewActivations({kTokens, 1, kHeadDim});
    args.cu_seqlens = arrays.PutInts(
        prompt ? std::vector<int32_t>{0, kTokens} : std::vector<int32_t>{0, 1, 2, 3, 4},
        {sequences + 1});
    args.context_lens = arrays.PutInts(
        prompt ? std::vector<int32_t>{kTokens} : std::vector<int32_t>{1, 2, 3, 4}, {sequences});
    args.block_tables = arrays.PutInts(std::vector<int32_t>(sequences, 0), {sequences, 1});
    args.pool = cache.pool.View(arrays.PutBytes(cache.pool.bytes));
    args.key.groups = cache.key;
    args.value.groups = cache.value;
    args.kv_heads = 1;
    args.scale = 0.125f;
    args.window = 1;
    backend_->LatentAttention(args);
    const std::vector<double> got = arrays.Get(args.out);
    for (int code = 0; code < 256; ++code) {
      const double want = reference::Fp8Value(static_cast<uint8_t>(code));
      if (std::isnan(want)) {
        if (prompt) continue;
        EXPECT_TRUE(std::isnan(got[code])) << code << " became " << got[code];
      } else {
        EXPECT_EQ(got[code], want) << code;
      }
    }
  }
}

TEST_P(Fp8LatentTest, InfinitiesSaturateAndNaNStays) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::vector<double> x = {kInfinity, -kInfinity, std::nan(""), 1.0, 1e30, -464.0, 0.0};
  const std::vector<double> want = {448.0, -448.0, std::nan(""), 1.0, 448.0, -448.0, 0.0};
  const auto rank = static_cast<int64_t>(x.size());
  int64_t offset = 0;
  const std::vector<LatentSegment> segments =
      MakeSegments(LatentFormat::kFp8, {static_cast<int>(rank)}, 1, &offset);
  HostPool pool(1, offset, 1);
  const Tensor device = arrays_.PutBytes(pool.bytes);
  backend_->LatentWrite({.x = arrays_.PutActivations(x, {1, rank}),
                         .slot_mapping = arrays_.PutInts64({0}, {1}),
                         .projection = {.groups = segments, .heads_per_group = 1, .up = {}},
                         .pool = pool.View(device)});
  pool.bytes = arrays_.GetBytes(device);
  const std::vector<double> got = pool.Read(segments[0], 0);
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_TRUE(got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i])))
        << x[i] << " became " << got[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, Fp8LatentTest, testing::ValuesIn(AvailableBackends()), CaseName);

}  // namespace
}  // namespace palu
