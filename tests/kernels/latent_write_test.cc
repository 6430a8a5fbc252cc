#include <cmath>
#include <limits>
#include <numeric>

#include "tests/kernels/latent_fixture.h"

namespace palu {
namespace {

using LatentWriteTest = KernelTest;

struct Written {
  HostPool pool;
  std::vector<LatentSegment> segments;
};

// Writes rows of x into slots of a poisoned pool and brings the pool back.
Written Write(Backend* backend, LatentFormat format, const std::vector<int>& ranks,
              const std::vector<double>& x, const std::vector<int64_t>& slots) {
  DeviceArrays arrays(backend);
  int64_t offset = 32;
  std::vector<LatentSegment> segments = MakeSegments(format, ranks, 5, &offset);
  HostPool pool(5, offset + 7, 6);
  const int64_t width = std::accumulate(ranks.begin(), ranks.end(), 0);
  const auto tokens = static_cast<int64_t>(slots.size());
  const Tensor device = arrays.PutBytes(pool.bytes);
  backend->LatentWrite({.x = arrays.PutActivations(x, {tokens, width}),
                        .slot_mapping = arrays.PutInts64(slots, {tokens}),
                        .projection = {.groups = segments, .heads_per_group = 1, .up = {}},
                        .pool = pool.View(device)});
  pool.bytes = arrays.GetBytes(device);
  return {pool, segments};
}

const std::vector<int64_t> kSlots = {29, 3, -1, 0, 14, 15};

// Byte for byte what the reference packs, in the named slots only; a negative slot is skipped.
TEST_P(LatentWriteTest, WritesExactlyTheRowsOfItsSlots) {
  Random random(1);
  for (LatentFormat format : kAllFormats) {
    for (const std::vector<int>& ranks :
         {std::vector<int>{16}, std::vector<int>{7, 33, 8}, std::vector<int>{64, 1}}) {
      SCOPED_TRACE(testing::Message() << Name(format) << " rank " << ranks[0]);
      const int width = std::accumulate(ranks.begin(), ranks.end(), 0);
      const std::vector<double> x =
          AsActivations(*backend_, random.Normal(kSlots.size() * width, 3.0));
      const Written written = Write(backend_.get(), format, ranks, x, kSlots);
      HostPool want(5, written.pool.block_bytes, 6);
      for (size_t t = 0; t < kSlots.size(); ++t) {
        auto row = x.begin() + static_cast<int64_t>(t) * width;
        for (const LatentSegment& segment : written.segments) {
          if (kSlots[t] >= 0) want.Write(segment, kSlots[t], {row, row + segment.rank});
          row += segment.rank;
        }
      }
      // Codes may differ by one where a number lies halfway between two of them in f32.
      int different = 0;
      for (size_t i = 0; i < want.bytes.size(); ++i) {
        different += want.bytes[i] != written.pool.bytes[i] ? 1 : 0;
      }
      EXPECT_LE(different, IsQuantized(format) ? 1 : 0);
    }
  }
}

TEST_P(LatentWriteTest, ErrorIsAtMostHalfAStep) {
  Random random(2);
  for (LatentFormat format : kAllFormats) {
    SCOPED_TRACE(Name(format));
    for (const int rank : {1, 8, 45, 128}) {
      const std::vector<double> x = AsActivations(*backend_, random.Normal(rank, 2.0));
      Written written = Write(backend_.get(), format, {rank}, x, {7});
      const std::vector<double> got = written.pool.Read(written.segments[0], 7);
      const auto [low, high] = std::minmax_element(x.begin(), x.end());
      const double range = *high - *low;
      for (int i = 0; i < rank; ++i) {
        double bound = 0;
        if (format == LatentFormat::kBF16) bound = std::fabs(x[i]) * 0x1p-8;
        if (format == LatentFormat::kF16) bound = std::fabs(x[i]) * 0x1p-11;
        if (format == LatentFormat::kFp8) bound = std::max(std::fabs(x[i]) * 0x1p-4, 0x1p-10);
        // Half a step, plus what rounding the zero and (times the code) the scale to f16 adds.
        if (IsQuantized(format)) {
          bound = 0.5 * range / ((1 << Bits(format)) - 1) + (std::fabs(*low) + range) * 0x1p-11;
        }
        EXPECT_LE(std::fabs(got[i] - x[i]), bound + 1e-7) << "rank " << rank << " number " << i;
      }
    }
  }
}

TEST_P(LatentWriteTest, ConstantRowsComeBackAsTheirValue) {
  for (LatentFormat format : kAllFormats) {
    for (const double value : {0.0, 1.0, -0.375, 448.0}) {
      Written written = Write(backend_.get(), format, {19}, std::vector<double>(19, value), {11});
      for (double got : written.pool.Read(written.segments[0], 11)) EXPECT_EQ(got, value);
    }
  }
}

// Beyond f16's range numbers saturate; nothing turns into NaN or infinity.
TEST_P(LatentWriteTest, HugeNumbersStayFinite) {
  for (LatentFormat format : kAllFormats) {
    SCOPED_TRACE(Name(format));
    for (const double huge : {7e4, 1e6, 3e30, 3e38}) {
      std::vector<double> x = {huge, -huge, 0.0, 1.0, huge, -1.0, 0.5, 2.0, -huge};
      Written written = Write(backend_.get(), format, {9}, x, {4});
      const std::vector<double> got = written.pool.Read(written.segments[0], 4);
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_TRUE(std::isfinite(got[i])) << huge << " became " << got[i];
        if (std::fabs(x[i]) == huge) {
          EXPECT_EQ(std::signbit(got[i]), std::signbit(x[i]));
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, LatentWriteTest, testing::ValuesIn(AvailableBackends()),
                         CaseName);

}  // namespace
}  // namespace palu
