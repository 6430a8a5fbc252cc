// Every family against logits of Hugging Face transformers in float32 (see the fixtures' README).
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "tests/model/model_harness.h"
#include "tests/test_paths.h"

namespace palu::testing {
namespace {

constexpr double kTolerance = 2e-3;  // of the standard deviation of the logits

// llama-mha is only among the fixtures.
std::string ZooDirectory(const std::string& name) {
  const std::string ours = SourceDir() + "/tests/golden/zoo/" + name;
  if (std::filesystem::exists(ours)) return ours;
  return FixturesDir() + "/models/zoo/" + name;
}

class Zoo : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    directory_ = ZooDirectory(GetParam());
    if (!std::filesystem::exists(directory_)) GTEST_SKIP() << "needs fixture zoo/" << GetParam();
    golden_ = directory_ + "/golden.safetensors";
    ids_ = GoldenIds(golden_, "ids");
    logits_ = GoldenRows(golden_, "logits");
  }

  std::string directory_, golden_;
  std::vector<std::vector<int32_t>> ids_;
  std::vector<std::vector<float>> logits_;  // both sequences one after the other
};

TEST_P(Zoo, LogitsOfAllPositions) {
  ModelHarness model(directory_);
  const auto logits = model.Step({{0, ids_[0]}, {1, ids_[1]}});
  const double error = RelativeError(logits, logits_);
  EXPECT_LE(error, kTolerance);
  RecordProperty("relative_error", std::to_string(error));
}

// Chunks of uneven length, sequences that start later and mixed batches give the same bits.
TEST_P(Zoo, ChunkingAndBatchingDoNotChangeABit) {
  ModelHarness whole(directory_), pieces(directory_);
  const auto expected = whole.Step({{0, ids_[0]}, {1, ids_[1]}});
  const size_t length = ids_[0].size();
  std::vector<std::vector<float>> actual(2 * length);
  const std::vector<size_t> cuts[2] = {{1, 1, 7, 16, 3, 30, 1, 37}, {0, 0, 50, 1, 1, 0, 29, 15}};
  size_t done[2] = {0, 0};
  for (size_t step = 0; step < cuts[0].size(); ++step) {
    std::vector<Chunk> chunks;
    std::vector<size_t> places;
    for (const size_t s : {size_t{1}, size_t{0}}) {
      const size_t count = cuts[s][step];
      if (count == 0) continue;
      const auto begin = ids_[s].begin() + static_cast<std::ptrdiff_t>(done[s]);
      chunks.push_back({static_cast<int>(s), {begin, begin + static_cast<std::ptrdiff_t>(count)}});
      for (size_t i = 0; i < count; ++i) places.push_back(s * length + done[s] + i);
      done[s] += count;
    }
    const auto rows = pieces.Step(chunks);
    for (size_t i = 0; i < rows.size(); ++i) actual[places[i]] = rows[i];
  }
  ASSERT_EQ(done[0], length);
  ASSERT_EQ(done[1], length);
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(actual[i], expected[i]) << "position " << i;
  }
}

TEST_P(Zoo, GreedyContinuation) {
  ModelHarness model(directory_);
  const auto expected = GoldenIds(golden_, "greedy").at(0);
  const auto prompt = GoldenIds(golden_, "greedy_prompt").at(0);
  EXPECT_EQ(model.Greedy(0, prompt, static_cast<int>(expected.size())), expected);
}

INSTANTIATE_TEST_SUITE_P(Families, Zoo,
                         ::testing::Values("llama-mha", "llama31-gqa", "mistral-swa", "qwen2",
                                           "qwen3", "phi3", "mixtral-moe", "qwen3-moe", "gemma3"),
                         [](const auto& zoo) {
                           std::string name = zoo.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// bf16 activations; the cache as a server would have it.
TEST(ZooOnCuda, LogitsOfEveryFamily) {
  const std::string why = WhyNoCuda();
  if (!why.empty()) GTEST_SKIP() << why;
  HarnessOptions options;
  options.device = "cuda:0";
  options.format = "auto";
  for (const char* name : {"llama31-gqa", "mistral-swa", "qwen2", "qwen3", "phi3", "gemma3"}) {
    const std::string golden = ZooDirectory(name) + "/golden.safetensors";
    const auto ids = GoldenIds(golden, "ids");
    ModelHarness model(ZooDirectory(name), options);
    const double error =
        RelativeError(model.Step({{0, ids[0]}, {1, ids[1]}}), GoldenRows(golden, "logits"));
    EXPECT_LE(error, 0.15) << name;
    RecordProperty(name, std::to_string(error));
  }
}

// Share of positions whose logits are within `tolerance` of the golden ones, in standard
// deviations.
double ShareWithin(double tolerance, const std::string& name, const HarnessOptions& options) {
  const std::string golden = ZooDirectory(name) + "/golden.safetensors";
  const auto ids = GoldenIds(golden, "ids");
  ModelHarness model(ZooDirectory(name), options);
  const auto actual = model.Step({{0, ids[0]}, {1, ids[1]}});
  const auto expected = GoldenRows(golden, "logits");
  size_t close = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    close += RelativeError({actual[i]}, {expected[i]}) <= tolerance;
  }
  return static_cast<double>(close) / static_cast<double>(expected.size());
}

// With random weights the router's choices are near ties, so that rounding sends some tokens to
// other experts, which changes their logits altogether: a few positions are far off and the others
// as close as those of models without experts. The CPU does the same where only the cache is
// rounded, and in f32 nothing is off on either.
TEST(ZooOnCuda, ExpertsAreRightWhereNoTokenIsSentElsewhere) {
  const std::string why = WhyNoCuda();
  if (!why.empty()) GTEST_SKIP() << why;
  for (const char* name : {"mixtral-moe", "qwen3-moe"}) {
    HarnessOptions options;
    options.format = "bf16";
    RecordProperty(std::string(name) + "_cpu", std::to_string(ShareWithin(0.15, name, options)));
    options.device = "cuda:0";
    const double share = ShareWithin(0.15, name, options);
    RecordProperty(std::string(name) + "_bf16", std::to_string(share));
    EXPECT_GE(share, 0.8) << name;
    options.format = "f32";
    options.cuda_activations = "f32";
    EXPECT_EQ(ShareWithin(0.01, name, options), 1.0) << name;
  }
}

}  // namespace
}  // namespace palu::testing
