// RoPE frequencies against formulas written down here on their own.
#include "engine/model/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/status.h"

namespace palu::testing {
namespace {

constexpr double kPi = 3.14159265358979323846;

RopeConfig Parse(const std::string& text, double theta = 10000.0, int dim = 64,
                 int max_positions = 4096) {
  const Json json = Json::parse(text);
  return ParseRope(JsonObject(json, "config.json", "rope_scaling"), theta, dim, max_positions);
}

TEST(Rope, Default) {
  const auto frequencies = InverseFrequencies(ParseRope(std::nullopt, 500000.0, 8, 100));
  ASSERT_EQ(frequencies.size(), 4u);
  EXPECT_DOUBLE_EQ(frequencies[0], 1.0);
  EXPECT_NEAR(frequencies[1], 1 / std::sqrt(std::sqrt(500000.0)), 1e-15);
  EXPECT_NEAR(frequencies[2], 1 / std::sqrt(500000.0), 1e-15);
}

TEST(Rope, LinearDividesPositions) {
  const RopeConfig plain = Parse(R"({"rope_type":"default"})");
  const RopeConfig linear = Parse(R"({"type":"linear","factor":4})");
  const auto a = RopeTable(plain, 25), b = RopeTable(linear, 100);
  for (size_t p = 0; p < 25; ++p) {
    for (size_t i = 0; i < 64; ++i) EXPECT_NEAR(a[p * 64 + i], b[4 * p * 64 + i], 1e-6);
  }
}

TEST(Rope, TableHasCosinesThenSines) {
  const auto table = RopeTable(ParseRope(std::nullopt, 100.0, 4, 16), 16);
  for (int p = 0; p < 16; ++p) {
    const float* row = table.data() + 4 * p;
    EXPECT_NEAR(row[0], std::cos(p), 1e-7);
    EXPECT_NEAR(row[1], std::cos(p * 0.1), 1e-7);
    EXPECT_NEAR(row[2], std::sin(p), 1e-7);
    EXPECT_NEAR(row[3], std::sin(p * 0.1), 1e-7);
  }
}

// Llama 3.1: three bands by wavelength, a line in 1 / wavelength between the outer two.
TEST(Rope, Llama3) {
  const RopeConfig rope = Parse(
      R"({"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,
          "original_max_position_embeddings":8192})",
      500000.0, 128);
  const auto frequencies = InverseFrequencies(rope);
  int bands[3] = {};
  for (size_t i = 0; i < 64; ++i) {
    const double plain = std::pow(500000.0, -static_cast<double>(i) / 64);
    const double turns = 8192 * plain / (2 * kPi);  // of the pair over the original context
    const double kept = turns < 1 ? 0 : turns > 4 ? 1 : (turns - 1) / 3;
    ++bands[turns < 1 ? 0 : turns > 4 ? 2 : 1];
    EXPECT_NEAR(frequencies[i], plain * (kept + (1 - kept) / 8), 1e-14) << i;
  }
  EXPECT_GT(bands[0], 0);
  EXPECT_GT(bands[1], 0);
  EXPECT_GT(bands[2], 0);
}

// arXiv 2309.00071: pairs that turn more than beta_fast times over the original context stay, those
// that turn less than beta_slow times are interpolated.
TEST(Rope, Yarn) {
  const double theta = 1e6, original = 32768, factor = 4;
  const RopeConfig rope = Parse(
      R"({"rope_type":"yarn","factor":4,"original_max_position_embeddings":32768})", theta, 128);
  const auto frequencies = InverseFrequencies(rope);
  const auto index_of = [&](double turns) {
    return 64 * std::log(original / (2 * kPi * turns)) / std::log(theta);
  };
  const double low = std::floor(index_of(32)), high = std::ceil(index_of(1));
  EXPECT_NEAR(AttentionFactor(rope), 0.1 * std::log(4.0) + 1, 1e-15);
  for (int i = 0; i < 64; ++i) {
    const double plain = std::pow(theta, -i / 64.0);
    const double slow = i <= low ? 0 : i >= high ? 1 : (i - low) / (high - low);
    EXPECT_NEAR(frequencies[static_cast<size_t>(i)], plain * (1 - slow) + plain / factor * slow,
                1e-12)
        << i;
  }
  const auto table = RopeTable(rope, 2);
  EXPECT_NEAR(table[0], 0.1 * std::log(4.0) + 1, 1e-6);
  EXPECT_NEAR(table[128 + 0], std::cos(1.0) * (0.1 * std::log(4.0) + 1), 1e-6);
}

TEST(Rope, YarnOptions) {
  EXPECT_EQ(AttentionFactor(Parse(R"({"type":"yarn","factor":2,"attention_factor":1.25})")), 1.25);
  // DeepSeek's pair of scales.
  EXPECT_NEAR(
      AttentionFactor(Parse(R"({"type":"yarn","factor":40,"mscale":1.0,"mscale_all_dim":0.5})")),
      (0.1 * std::log(40.0) + 1) / (0.05 * std::log(40.0) + 1), 1e-12);
  const RopeConfig smooth =
      Parse(R"({"type":"yarn","factor":2,"truncate":false,"beta_fast":16,"beta_slow":2})");
  EXPECT_FALSE(smooth.truncate);
  EXPECT_EQ(smooth.original_max_positions, 4096);
  const auto frequencies = InverseFrequencies(smooth);
  const double low = 32 * std::log(4096 / (2 * kPi * 16)) / std::log(1e4);
  const double high = 32 * std::log(4096 / (2 * kPi * 2)) / std::log(1e4);
  const int i = static_cast<int>((low + high) / 2);
  const double slow = (i - low) / (high - low);
  EXPECT_NEAR(frequencies[static_cast<size_t>(i)], std::pow(1e4, -i / 32.0) * (1 - slow + slow / 2),
              1e-12);
}

TEST(Rope, Errors) {
  const auto expect = [](const std::string& text, const std::string& part) {
    try {
      Parse(text);
      ADD_FAILURE() << text;
    } catch (const LoadError& error) {
      const std::string what = error.what();
      EXPECT_EQ(what.rfind("config.json: key \"rope_scaling.", 0), 0u) << what;
      EXPECT_NE(what.find(part), std::string::npos) << what;
    }
  };
  expect(R"({"rope_type":"longrope"})",
         "found \"longrope\", expected default, linear, llama3 or yarn");
  expect(R"({"type":"dynamic","factor":2})", "found \"dynamic\"");
  expect(R"({"type":5})", "expected a string");
  expect(R"({"type":"linear"})", "rope_scaling.factor\": found nothing");
  expect(R"({"type":"linear","factor":"8"})", "found \"8\"");
  expect(R"({"type":"linear","factor":0})", "found 0");
  expect(R"({"type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":4,
             "original_max_position_embeddings":64})",
         "more than low_freq_factor");
  expect(R"({"type":"yarn","factor":2,"truncate":1})", "true or false");
}

}  // namespace
}  // namespace palu::testing
