// Perplexity of the bundled model on held-out text, by cache format. Token ids: the first 48
// windows of 1024 tokens of text/classics_heldout.txt (public domain), cut as the golden's recipe
// says.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/model/checkpoint_maker.h"
#include "tests/model/model_harness.h"
#include "tests/test_paths.h"

namespace palu::testing {
namespace {

constexpr size_t kWindowTokens = 1024;

std::string Golden(const std::string& name) { return SourceDir() + "/tests/golden/" + name; }

// PALU_LONG_TESTS=1 takes all windows, minutes on a small machine.
bool Long() { return std::getenv("PALU_LONG_TESTS") != nullptr; }

double Perplexity(const std::string& directory, HarnessOptions options, size_t windows) {
  options.max_context = kWindowTokens;
  options.sequences = 1;
  ModelHarness model(directory, options);
  const auto ids = GoldenIds(Golden("classics-14m.heldout_ids.safetensors"), "ids");
  double sum = 0;
  size_t count = 0;
  for (size_t w = 0; w < windows; ++w) {
    model.Restart(0);
    for (const float score : model.Score(0, ids.at(w))) sum -= score;
    count += kWindowTokens - 1;
  }
  return std::exp(sum / static_cast<double>(count));
}

double Perplexity(const std::string& directory, const std::string& format,
                  const std::string& rotation, size_t windows) {
  HarnessOptions options;
  options.format = format;
  options.rotation = rotation;
  return Perplexity(directory, options, windows);
}

void ExpectGoldenPerplexity(const std::string& directory, const std::string& golden) {
  if (!Long()) GTEST_SKIP() << "set PALU_LONG_TESTS=1 for all 48 windows";
  const auto expected = nlohmann::json::parse(ReadText(golden)).at("perplexity");
  const double actual = Perplexity(directory, "f32", "auto", expected.at("windows").get<size_t>());
  ::testing::Test::RecordProperty("perplexity", std::to_string(actual));
  EXPECT_NEAR(actual / expected.at("ppl").get<double>(), 1.0, 1e-4);
}

TEST(Perplexity, GoldenOfAllWindows) {
  ExpectGoldenPerplexity(SourceDir() + "/models/classics-14m", Golden("classics-14m.json"));
}

TEST(Perplexity, GoldenOfAllWindowsPaluOfficial) {
  PALU_REQUIRE_FIXTURE("golden/classics-14m-palu-official.json");
  ExpectGoldenPerplexity(FixturesDir() + "/models/classics-14m-palu-official",
                         FixturesDir() + "/golden/classics-14m-palu-official.json");
}

// Rounding the cache costs little, and the rotation is what makes few bits usable.
TEST(Perplexity, DenseFormatsCostLittle) {
  const std::string directory = SourceDir() + "/models/classics-14m";
  const size_t windows = Long() ? 48 : 1;
  const double exact = Perplexity(directory, "f32", "none", windows);
  std::map<std::string, double> increase;
  for (const auto& [format, rotation] : {std::pair{"bf16", "none"},
                                         {"f16", "none"},
                                         {"fp8", "none"},
                                         {"int8", "hadamard"},
                                         {"int4", "hadamard"},
                                         {"int4", "none"},
                                         {"int3", "hadamard"},
                                         {"int2", "hadamard"},
                                         {"int2", "none"}}) {
    const std::string name = std::string(format) + "_" + rotation;
    increase[name] = Perplexity(directory, format, rotation, windows) / exact - 1;
    RecordProperty(name, std::to_string(increase[name]));
  }
  EXPECT_LT(std::fabs(increase["bf16_none"]), 0.002);
  EXPECT_LT(std::fabs(increase["f16_none"]), 0.0005);
  EXPECT_LT(std::fabs(increase["fp8_none"]), 0.01);
  EXPECT_LT(std::fabs(increase["int8_hadamard"]), 0.001);
  EXPECT_LT(increase["int4_hadamard"], 0.03);
  EXPECT_LT(increase["int3_hadamard"], 0.15);
  EXPECT_LT(increase["int4_hadamard"], increase["int4_none"] + 0.005);
  EXPECT_LT(increase["int2_hadamard"], increase["int2_none"]);
}

// The same up to rounding. With few bits a number that falls on the other side of a code's border
// sends all that follows another way: what is left is as much as the noise of the codes themselves
// spreads over so many tokens.
TEST(PerplexityOnCuda, AsOnTheCpuAtTheSameBits) {
  const std::string why = WhyNoCuda();
  if (!why.empty()) GTEST_SKIP() << why;
  const std::string directory = SourceDir() + "/models/classics-14m";
  const size_t windows = Long() ? 48 : 4;
  const double spread = Long() ? 1.0 : 3.5;  // sqrt(48 / 4)
  for (const auto& [format, tolerance] : {std::pair{"bf16", 0.0005},
                                          {"fp8", 0.001},
                                          {"int8", 0.0005},
                                          {"int4", 0.002},
                                          {"int3", 0.003},
                                          {"int2", 0.01}}) {
    HarnessOptions options;
    options.format = format;
    const double cpu = Perplexity(directory, options, windows);
    options.device = "cuda:0";
    for (const char* activations : {"f32", "bf16"}) {
      options.cuda_activations = activations;
      const double change = Perplexity(directory, options, windows) / cpu - 1;
      EXPECT_LE(std::fabs(change), spread * tolerance) << format << ", " << activations;
      RecordProperty(std::string(format) + "_" + activations, std::to_string(change));
      RecordProperty(std::string(format) + "_cpu", std::to_string(cpu));
    }
  }
}

}  // namespace
}  // namespace palu::testing
