// Ids and texts from Hugging Face tokenizers, sentencepiece and llama.cpp.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "server/text/tokenizer.h"
#include "tests/test_paths.h"

namespace palu {
namespace {

using testing::FixturesDir;
using testing::SourceDir;

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream in(path);
  return nlohmann::json::parse(in);
}

std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void ExpectCases(const Tokenizer& tokenizer, const nlohmann::json& cases) {
  ASSERT_GT(cases.size(), 5u);
  for (const auto& one : cases) {
    const std::string text = one["text"];
    const std::vector<int32_t> ids = one["ids"];
    EXPECT_EQ(tokenizer.Encode(text, /*add_special=*/false), ids) << text;
    EXPECT_EQ(tokenizer.Decode(ids, /*skip_special=*/false), one["decoded"].get<std::string>());
  }
}

TEST(ClassicsTokenizer, MatchesHuggingFace) {
  const auto tokenizer = LoadTokenizer(SourceDir() + "/models/classics-14m");
  const auto golden = ReadJson(SourceDir() + "/tests/golden/classics-14m.json");
  ExpectCases(*tokenizer, golden["tokenizer"]);
  EXPECT_EQ(tokenizer->vocab_size(), 8192);
  EXPECT_TRUE(tokenizer->is_special(0));
  EXPECT_FALSE(tokenizer->is_special(100));
  EXPECT_EQ(tokenizer->TokenId("<|endoftext|>"), 1);
  EXPECT_EQ(tokenizer->TokenName(1), "<|endoftext|>");
  EXPECT_EQ(tokenizer->TokenId("no such token"), -1);
}

TEST(ClassicsTokenizer, PromptsBeginWithBos) {
  const auto tokenizer = LoadTokenizer(SourceDir() + "/models/classics-14m");
  const auto golden = ReadJson(SourceDir() + "/tests/golden/classics-14m.json");
  ASSERT_FALSE(golden["cases"].empty());
  constexpr size_t kWindow = 512;
  for (const auto& one : golden["cases"]) {
    std::vector<int32_t> expected = one["ids"];
    const std::string prompt = one["prompt"];
    std::vector<int32_t> ids = tokenizer->Encode(prompt, /*add_special=*/true);
    if (expected.size() == kWindow) {  // text and ids are cut at different places
      const size_t common = std::min(ids.size(), expected.size()) - 1;
      ASSERT_GT(common, 400u);
      ids.resize(common);
      expected.resize(common);
    }
    EXPECT_EQ(ids, expected) << prompt;
  }
}

class FixtureTokenizer : public ::testing::TestWithParam<const char*> {
 protected:
  std::string Directory() const { return FixturesDir() + "/tokenizers/" + GetParam(); }
};

TEST_P(FixtureTokenizer, JsonMatchesHuggingFace) {
  PALU_REQUIRE_FIXTURE(std::string("tokenizers/") + GetParam());
  ExpectCases(*LoadTokenizer(Directory()), ReadJson(Directory() + "/cases.json"));
}

class FixtureModel : public FixtureTokenizer {};

TEST_P(FixtureModel, MatchesSentencePiece) {
  const std::string cases = std::string("tokenizers/") + GetParam() + "/sentencepiece_cases.json";
  PALU_REQUIRE_FIXTURE(cases);
  const auto tokenizer = LoadSentencePieceTokenizer(Directory() + "/tokenizer.model", "");
  ExpectCases(*tokenizer, ReadJson(FixturesDir() + "/" + cases));
}

INSTANTIATE_TEST_SUITE_P(All, FixtureTokenizer,
                         ::testing::Values("llama3", "qwen2", "llama2", "mistral"));
INSTANTIATE_TEST_SUITE_P(All, FixtureModel, ::testing::Values("llama2", "mistral"));

// Inputs with a separator line between them; expected ids one line each.
void ExpectLlamaCppPairs(const Tokenizer& tokenizer, const std::string& name) {
  const std::string base = FixturesDir() + "/tokenizers/llama.cpp/ggml-vocab-" + name + ".gguf";
  const std::string inputs = ReadText(base + ".inp");
  std::istringstream outputs(ReadText(base + ".out"));
  const std::string separator = "\n__ggml_vocab_test__\n";
  int count = 0;
  for (size_t pos = 0; pos != std::string::npos; ++count) {
    const size_t end = inputs.find(separator, pos);
    const std::string text = inputs.substr(pos, end == std::string::npos ? end : end - pos);
    pos = end == std::string::npos ? end : end + separator.size();
    std::string line;
    if (!std::getline(outputs, line)) break;
    std::istringstream numbers(line);
    const std::vector<int32_t> ids{std::istream_iterator<int32_t>(numbers), {}};
    EXPECT_EQ(tokenizer.Encode(text, /*add_special=*/false), ids) << name << ": " << text;
  }
  EXPECT_GT(count, 40) << name;
}

TEST(LlamaCppPairs, Llama3) {
  PALU_REQUIRE_FIXTURE("tokenizers/llama.cpp");
  ExpectLlamaCppPairs(*LoadTokenizer(FixturesDir() + "/tokenizers/llama3"), "llama-bpe");
}

TEST(LlamaCppPairs, Qwen2) {
  PALU_REQUIRE_FIXTURE("tokenizers/llama.cpp");
  ExpectLlamaCppPairs(*LoadTokenizer(FixturesDir() + "/tokenizers/qwen2"), "qwen2");
}

// The pair comes from the sentencepiece model; the tokenizer.json beside it has other merges for
// spaces (its own cases.json says so).
TEST(LlamaCppPairs, Llama2) {
  PALU_REQUIRE_FIXTURE("tokenizers/llama.cpp");
  const std::string model = FixturesDir() + "/tokenizers/llama2/tokenizer.model";
  ExpectLlamaCppPairs(*LoadSentencePieceTokenizer(model, ""), "llama-spm");
}

// The vocabulary is not among the fixtures; llama.cpp's models/ggml-vocab-gpt-2.gguf holds it.
TEST(LlamaCppPairs, Gpt2) {
  PALU_REQUIRE_FIXTURE("tokenizers/gpt2");
  ExpectLlamaCppPairs(*LoadTokenizer(FixturesDir() + "/tokenizers/gpt2"), "gpt-2");
}

}  // namespace
}  // namespace palu
