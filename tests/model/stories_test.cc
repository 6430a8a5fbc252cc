// stories260K (karpathy/tinyllamas): the 200 tokens of llama2.c's own test, logits and perplexity
// of a float64 reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/model/checkpoint_maker.h"
#include "tests/model/model_harness.h"
#include "tests/test_paths.h"

namespace palu::testing {
namespace {

std::string Model() { return FixturesDir() + "/models/stories260K"; }
std::string Golden(const std::string& name) {
  return FixturesDir() + "/golden/stories260K/" + name;
}

std::vector<int32_t> Ids(const std::string& line) {
  std::istringstream in(line);
  std::vector<int32_t> ids;
  for (int32_t id; in >> id;) ids.push_back(id);
  return ids;
}

TEST(Stories, TwoHundredGreedyTokens) {
  PALU_REQUIRE_FIXTURE("golden/stories260K/greedy200.ids");
  const std::vector<int32_t> expected = Ids(ReadText(Golden("greedy200.ids")));
  ASSERT_GE(expected.size(), 200u);
  ModelHarness model(Model());
  EXPECT_EQ(model.Greedy(0, {1}, static_cast<int>(expected.size())), expected);
}

TEST(Stories, LogitsOfTheFloat64Reference) {
  PALU_REQUIRE_FIXTURE("golden/stories260K/prompt_logits_f64.json");
  const auto golden = nlohmann::json::parse(ReadText(Golden("prompt_logits_f64.json")));
  const nlohmann::json& rows = golden.is_object() ? golden.at("logits") : golden;
  ModelHarness model(Model());
  const auto logits = model.Step({{0, Ids(ReadText(Golden("prompt.ids")))}});
  EXPECT_LE(RelativeError(logits, rows.get<std::vector<std::vector<float>>>()), 1e-4);
}

// 79255 predictions over 200 stories.
TEST(Stories, Perplexity) {
  PALU_REQUIRE_FIXTURE("golden/stories260K/tinystories200.ids");
  ModelHarness model(Model());
  std::ifstream in(Golden("tinystories200.ids"));
  double sum = 0;
  int64_t count = 0;
  for (std::string line; std::getline(in, line);) {
    std::vector<int32_t> ids = Ids(line);
    ids.resize(std::min<size_t>(ids.size(), 512));  // as the reference cut them
    model.Restart(0);
    for (const float score : model.Score(0, ids)) {
      sum -= score;
      ++count;
    }
  }
  EXPECT_EQ(count, 79255);
  EXPECT_NEAR(sum / static_cast<double>(count), 1.477918, 2e-5);
  EXPECT_NEAR(std::exp(sum / static_cast<double>(count)), 4.38381, 1e-4);
}

}  // namespace
}  // namespace palu::testing
