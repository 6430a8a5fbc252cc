#include "server/text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "server/text/utf8.h"
#include "tests/test_paths.h"

namespace palu {
namespace {

using testing::FixturesDir;
using testing::SourceDir;

bool IsUtf8(const std::string& text) { return ReplaceInvalidUtf8(text) == text; }

// Random ids are mostly nonsense: cut-off code points, stray bytes, special tokens.
void ExpectStreamsLikeDecode(const Tokenizer& tokenizer, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int32_t> any(-2, tokenizer.vocab_size() + 2);
  std::uniform_int_distribution<int32_t> low(0, 300);  // where the byte tokens are
  for (int round = 0; round < 400; ++round) {
    std::vector<int32_t> ids(random() % 40);
    for (int32_t& id : ids) id = random() % 2 == 0 ? any(random) : low(random);
    const bool skip_special = round % 2 == 0;
    Detokenizer detokenizer(tokenizer, skip_special);
    std::string streamed;
    for (const int32_t id : ids) {
      const std::string piece = detokenizer.Push(id);
      ASSERT_TRUE(IsUtf8(piece));
      streamed += piece;
    }
    streamed += detokenizer.Finish();
    ASSERT_TRUE(IsUtf8(streamed));
    ASSERT_EQ(streamed, tokenizer.Decode(ids, skip_special));
  }
}

TEST(Detokenizer, ClassicsStreamsLikeDecode) {
  ExpectStreamsLikeDecode(*LoadTokenizer(SourceDir() + "/models/classics-14m"), 1);
}

TEST(Detokenizer, FixturesStreamLikeDecode) {
  for (const char* name : {"llama3", "qwen2", "llama2", "mistral"}) {
    PALU_REQUIRE_FIXTURE(std::string("tokenizers/") + name);
    ExpectStreamsLikeDecode(*LoadTokenizer(FixturesDir() + "/tokenizers/" + name), 2);
  }
  for (const char* name : {"llama2", "mistral"}) {
    const std::string model = FixturesDir() + "/tokenizers/" + name + "/tokenizer.model";
    ExpectStreamsLikeDecode(*LoadSentencePieceTokenizer(model, ""), 3);
  }
}

TEST(Detokenizer, HoldsBackAnUnfinishedCodePoint) {
  const auto tokenizer = LoadTokenizer(SourceDir() + "/models/classics-14m");
  const std::vector<int32_t> ids = tokenizer->Encode("\xF0\x9F\x98\x80", false);
  ASSERT_GT(ids.size(), 1u);
  Detokenizer detokenizer(*tokenizer);
  for (size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(detokenizer.Push(ids[i]), "");
  EXPECT_EQ(detokenizer.Push(ids.back()), "\xF0\x9F\x98\x80");
  EXPECT_EQ(detokenizer.Finish(), "");
}

TEST(Detokenizer, CutOffCodePointBecomesReplacementAtTheEnd) {
  const auto tokenizer = LoadTokenizer(SourceDir() + "/models/classics-14m");
  std::vector<int32_t> ids = tokenizer->Encode("a\xF0\x9F\x98\x80", false);
  ids.pop_back();
  Detokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.Push(ids), "a");
  EXPECT_EQ(detokenizer.Finish(), "\xEF\xBF\xBD");
}

TEST(Utf8, RepairsAsPythonDoes) {
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(ReplaceInvalidUtf8("a\xE2\x82z"), "a" + bad + "z");
  EXPECT_EQ(ReplaceInvalidUtf8("\xC0\x80"), bad + bad);
  EXPECT_EQ(ReplaceInvalidUtf8("\xED\xA0\x80"), bad + bad + bad);
  EXPECT_EQ(ReplaceInvalidUtf8("\xF4\x90\x80\x80"), bad + bad + bad + bad);
  EXPECT_EQ(ReplaceInvalidUtf8("\xF0\x9F\x98"), bad);
  EXPECT_EQ(ReplaceInvalidUtf8("\xF0\x9F\x98\x80"), "\xF0\x9F\x98\x80");
}

}  // namespace
}  // namespace palu
