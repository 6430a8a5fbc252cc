// palu-eval's needles, overlapping windows, table and picture.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "tests/test_paths.h"
#include "tools/eval/needle.h"
#include "tools/eval/perplexity.h"

namespace palu {
namespace {

std::string Model() { return testing::SourceDir() + "/models/classics-14m"; }

EvalOptions Options() {
  EvalOptions options;
  options.model = Model();
  options.text = {Model() + "/calibration.txt"};
  options.recipe = "stream-192";
  options.threads = 1;
  options.chunk_tokens = 96;
  return options;
}

TEST(Needle, IsReadFromTheCache) {
  NeedleOptions needles;
  needles.depths = 2;
  needles.trials = 3;
  const NeedleResult result = FindNeedles(Options(), needles, nullptr);
  ASSERT_EQ(result.depths.size(), 2u);
  EXPECT_EQ(result.depths[0].depth, 0.0);
  EXPECT_EQ(result.depths[1].depth, 1.0);
  for (const NeedleDepth& depth : result.depths) {
    // Having seen the key helps, wherever it was: the cache held it.
    EXPECT_LT(depth.loss, depth.without - 1.0) << depth.depth;
    EXPECT_GE(depth.found, 0.0);
    EXPECT_LE(depth.found, 1.0);
  }
  EXPECT_EQ(ToJson(result).at("needle").size(), 2u);
  EXPECT_NE(NeedleTable(result).find("windows of 192 tokens"), std::string::npos);
  // The same seed asks the same questions.
  EXPECT_DOUBLE_EQ(FindNeedles(Options(), needles, nullptr).depths[1].loss, result.depths[1].loss);
}

TEST(Needle, SaysWhenTheWindowIsTooSmall) {
  EvalOptions options = Options();
  options.window = 16;
  try {
    FindNeedles(options, {}, nullptr);
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("too small for a needle"), std::string::npos);
  }
}

// With overlap each window counts only what the one before did not, so every token counts once.
TEST(Evaluate, OverlappingWindowsCountEveryTokenOnce) {
  EvalOptions options = Options();
  options.max_windows = 3;
  options.stride = 64;
  const EvalResult result = Evaluate(options, nullptr);
  EXPECT_EQ(result.windows, 3);
  EXPECT_EQ(result.tokens, 191 + 64 + 64);
  ASSERT_EQ(result.loss_by_position.size(), 8u);
}

EvalResult Point(const std::string& model, double bytes, double perplexity) {
  EvalResult result;
  result.model = model;
  result.bytes_per_token = bytes;
  result.bytes_per_token_16bit = 1000;
  result.loss = std::log(perplexity);
  return result;
}

TEST(Compare, TableIsOrderedByBytesAndNamesEverything) {
  EvalResult with_reference = Point("c", 125, 34.5);
  with_reference.has_reference = true;
  with_reference.kl = 0.0125;
  with_reference.top1 = 0.875;
  const std::string table =
      CompareTable({Point("a", 1000, 33), with_reference, Point("b", 281, 34)});
  const size_t a = table.find("| a | 1000.0 | 100.00 % | 33.000 |");
  const size_t b = table.find("| b | 281.0 | 28.10 % | 34.000 |");
  const size_t c = table.find("| c | 125.0 | 12.50 % | 34.500 | 0.01250 | 87.50 % |");
  ASSERT_NE(a, std::string::npos) << table;
  ASSERT_NE(b, std::string::npos) << table;
  ASSERT_NE(c, std::string::npos) << table;
  EXPECT_LT(c, b);
  EXPECT_LT(b, a);
}

// Centres of the circles, in the order of bytes.
std::vector<std::pair<double, double>> Circles(const std::string& svg) {
  std::vector<std::pair<double, double>> circles;
  const std::string tag = "<circle cx=\"";
  for (size_t at = svg.find(tag); at != std::string::npos; at = svg.find(tag, at + 1)) {
    const size_t y = svg.find("cy=\"", at);
    circles.emplace_back(std::stod(svg.substr(at + tag.size())), std::stod(svg.substr(y + 4)));
  }
  return circles;
}

TEST(Compare, PictureHasEveryPointInItsPlace) {
  const std::string svg =
      CompareSvg({Point("/x/big", 1000, 33), Point("mid/", 500, 34), Point("small", 125, 36)});
  const auto circles = Circles(svg);
  ASSERT_EQ(circles.size(), 3u);
  EXPECT_LT(circles[0].first, circles[1].first);
  EXPECT_LT(circles[1].first, circles[2].first);
  EXPECT_LT(circles[0].second, circles[1].second);  // y grows downward: worse is higher
  EXPECT_LT(circles[1].second, circles[2].second);
  EXPECT_NEAR(circles[2].second - circles[1].second, (circles[1].second - circles[0].second) / 2,
              0.2);
  for (const char* name : {">big (", ">mid", ">small ("}) {
    EXPECT_NE(svg.find(name), std::string::npos) << name;
  }
  EXPECT_EQ(svg.compare(svg.size() - 7, 7, "</svg>\n"), 0);
  EXPECT_EQ(Circles(CompareSvg({Point("alone", 10, 5)})).size(), 1u);
}

}  // namespace
}  // namespace palu
