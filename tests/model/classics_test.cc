// The bundled model and its form in the Palu authors' layout against Hugging Face transformers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/status.h"
#include "tests/model/checkpoint_maker.h"
#include "tests/model/model_harness.h"
#include "tests/test_paths.h"

namespace palu::testing {
namespace {

// f32 arithmetic in another order than the reference's, over 6 layers.
constexpr double kLogprobTolerance = 2e-3;
constexpr double kLogitTolerance = 2e-3;  // of the logits' standard deviation

std::string Bundled() { return SourceDir() + "/models/classics-14m"; }
std::string Golden(const std::string& name) { return SourceDir() + "/tests/golden/" + name; }

void ExpectGolden(const std::string& directory, const std::string& golden,
                  const HarnessOptions& options, size_t most_cases = SIZE_MAX) {
  const auto cases = nlohmann::json::parse(ReadText(golden + ".json")).at("cases");
  ModelHarness model(directory, options);
  ASSERT_FALSE(cases.empty());
  for (size_t i = 0; i < std::min(cases.size(), most_cases); ++i) {
    SCOPED_TRACE("case " + std::to_string(i));
    const auto ids = cases[i].at("ids").get<std::vector<int32_t>>();
    const auto logprobs = cases[i].at("next_token_logprobs").get<std::vector<double>>();
    const auto greedy = cases[i].at("greedy").get<std::vector<int32_t>>();

    model.Restart(0);
    const std::vector<float> scores = model.Score(0, ids, /*chunk=*/100);
    ASSERT_EQ(scores.size(), logprobs.size());
    for (size_t t = 0; t < scores.size(); ++t) {
      ASSERT_NEAR(scores[t], logprobs[t], kLogprobTolerance) << "token " << t;
    }
    const auto last = model.Step({{0, {ids.back()}}});
    const auto expected =
        GoldenRows(golden + ".last_logits.safetensors", "last_" + std::to_string(i));
    EXPECT_LE(RelativeError(last, expected), kLogitTolerance);
    model.Restart(0);
    EXPECT_EQ(model.Greedy(0, ids, static_cast<int>(greedy.size())), greedy);
  }
}

TEST(Classics, Golden) { ExpectGolden(Bundled(), Golden("classics-14m"), {.max_context = 1024}); }

TEST(ClassicsOnCuda, GoldenInF32) {
  const std::string why = WhyNoCuda();
  if (!why.empty()) GTEST_SKIP() << why;
  ExpectGolden(Bundled(), Golden("classics-14m"),
               {.device = "cuda:0", .cuda_activations = "f32", .max_context = 1024});
}

// How much less likely the texts of the golden cases are, per token, in nats.
double LossByWeights(const char* weights) {
  HarnessOptions options{.max_context = 1024};
  options.weights = weights;
  ModelHarness model(Bundled(), options);
  double difference = 0;
  size_t count = 0;
  const auto golden = nlohmann::json::parse(ReadText(Golden("classics-14m") + ".json"));
  for (const auto& entry : golden.at("cases")) {
    const auto ids = entry.at("ids").get<std::vector<int32_t>>();
    const auto logprobs = entry.at("next_token_logprobs").get<std::vector<double>>();
    model.Restart(0);
    const std::vector<float> scores = model.Score(0, ids);
    for (size_t t = 0; t < scores.size(); ++t) difference += logprobs[t] - scores[t];
    count += scores.size();
  }
  return difference / static_cast<double>(count);
}

TEST(Classics, QuantizedWeightsCostLittle) {
  const double int8 = LossByWeights("int8");
  EXPECT_LE(std::abs(int8), 0.004) << int8;
  const double int4 = LossByWeights("int4");
  EXPECT_GT(int4, 0.005) << "is anything rounded?";
  EXPECT_LE(int4, 0.08);
}

TEST(Classics, UnknownWeightFormatIsNamed) {
  try {
    LossByWeights("int5");
    FAIL();
  } catch (const LoadError& error) {
    EXPECT_STREQ(error.what(), "model.weights: found \"int5\", expected auto, bf16, int8 or int4");
  }
}

class ClassicsIsa : public ::testing::TestWithParam<const char*> {};

TEST_P(ClassicsIsa, Golden) {
  HarnessOptions options{.max_context = 1024};
  options.isa = GetParam();
  try {
    CreateBackend({.device = "cpu", .cpu_isa = options.isa, .cpu_affinity = {}});
  } catch (const std::runtime_error& error) {
    GTEST_SKIP() << error.what();
  }
  // The short prompts.
  ExpectGolden(Bundled(), Golden("classics-14m"), options, 8);
}

INSTANTIATE_TEST_SUITE_P(InstructionSets, ClassicsIsa,
                         ::testing::Values("portable", "avx2", "avx512"));

TEST(PaluOfficial, GoldenAndBytes) {
  PALU_REQUIRE_FIXTURE("models/classics-14m-palu-official/config.json");
  const std::string directory = FixturesDir() + "/models/classics-14m-palu-official";
  const std::string golden = FixturesDir() + "/golden/classics-14m-palu-official";
  ExpectGolden(directory, golden, {.max_context = 1024});
}

// What is cached are the latents: 2 groups of rank 64 for K and as many for V, 6 layers.
TEST(PaluOfficial, CacheHoldsLatentsOnly) {
  PALU_REQUIRE_FIXTURE("models/classics-14m-palu-official/config.json");
  const std::string directory = FixturesDir() + "/models/classics-14m-palu-official";
  const int64_t numbers = 6 * 2 * 2 * 64;
  for (const auto& [format, bytes] : {std::pair{"f32", numbers * 4},
                                      {"auto", numbers * 2},
                                      {"fp8", numbers},
                                      {"int4", numbers / 2 + 6 * 2 * 2 * 4}}) {
    HarnessOptions options{.max_context = 64};
    options.format = format;
    ModelHarness model(directory, options);
    const CacheReport& report = model.runner().cache_report();
    EXPECT_EQ(report.bytes_per_token, static_cast<double>(bytes)) << format;
    EXPECT_EQ(report.block_bytes, bytes * report.block_tokens) << format;
    EXPECT_EQ(report.capacity_bytes, report.block_bytes * report.num_blocks) << format;
    EXPECT_EQ(report.bytes_per_token_uncompressed, 6 * 2 * 4 * 64 * 2.0) << format;
  }
}

// f16 latents, as the checkpoint's dtype says, hardly move the result.
TEST(PaluOfficial, LatentsInTheCheckpointsType) {
  PALU_REQUIRE_FIXTURE("models/classics-14m-palu-official/config.json");
  const std::string directory = FixturesDir() + "/models/classics-14m-palu-official";
  const auto golden =
      nlohmann::json::parse(ReadText(FixturesDir() + "/golden/classics-14m-palu-official.json"));
  HarnessOptions options{.max_context = 1024};
  options.format = "auto";
  ModelHarness model(directory, options);
  EXPECT_EQ(model.runner().cache_report().layers.at(0).key.format, LatentFormat::kF16);
  const auto& longest = golden.at("cases").back();
  const auto ids = longest.at("ids").get<std::vector<int32_t>>();
  const auto logprobs = longest.at("next_token_logprobs").get<std::vector<double>>();
  const std::vector<float> scores = model.Score(0, ids);
  double sum = 0, expected = 0;
  for (size_t t = 0; t < scores.size(); ++t) {
    EXPECT_NEAR(scores[t], logprobs[t], 0.05) << "token " << t;
    sum += scores[t];
    expected += logprobs[t];
  }
  const auto count = static_cast<double>(scores.size());
  EXPECT_NEAR(sum / count, expected / count, 5e-4);
}

}  // namespace
}  // namespace palu::testing
