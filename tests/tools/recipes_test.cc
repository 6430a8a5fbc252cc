#include "tools/eval/recipes.h"

#include <gtest/gtest.h>

#include "tests/test_paths.h"

namespace palu {
namespace {

TEST(Recipe, ParsesNamesAndRefusesOthers) {
  EXPECT_TRUE(ParseRecipe("documents-1024").documents);
  EXPECT_EQ(ParseRecipe("stream-4096").window, 4096);
  EXPECT_FALSE(ParseRecipe("stream-2048").documents);
  for (const char* bad :
       {"", "stream", "stream-", "stream-x", "stream-1", "stream-20x", "wiki-64", "documents--5"}) {
    EXPECT_THROW(ParseRecipe(bad), std::runtime_error) << bad;
  }
}

TEST(Recipe, WindowsOverlapByStrideAndLeaveOutTheRest) {
  const auto windows = CutWindows({0, 1, 2, 3, 4, 5, 6}, 4, 2);
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[1], (std::vector<int32_t>{2, 3, 4, 5}));
  EXPECT_TRUE(CutWindows({1, 2}, 4, 4).empty());
}

TEST(Recipe, DocumentsAreFramedAndStreamsBeginOnce) {
  const std::string model = testing::SourceDir() + "/models/classics-14m";
  const auto tokenizer = LoadTokenizer(model);
  const ModelConfig config = ModelConfig::Load(model);
  const std::string text = "One day.\n<|endoftext|>\n\n<|endoftext|>\n Another. \n";
  std::vector<int32_t> expected;
  for (const char* document : {"One day.", "Another."}) {
    expected.push_back(0);
    for (const int32_t id : tokenizer->Encode(document, false)) expected.push_back(id);
    expected.push_back(1);
  }
  EXPECT_EQ(TokenizeText(text, *tokenizer, config, true), expected);
  const auto stream = TokenizeText("One day.", *tokenizer, config, false);
  EXPECT_EQ(stream.front(), 0);
  EXPECT_NE(stream.back(), 1);
}

}  // namespace
}  // namespace palu
