// Random walks through grammars with the vocabularies of real models: the text is that of the
// tokenizer's own decoder, and whoever judges it is not ours (nlohmann's parser, PCRE2, and
// jsonschema where tests/e2e/test_structured.py reads what is recorded).
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "server/structured/schema_compiler.h"
#include "server/structured/structured_output.h"
#include "server/text/tokenizer.h"
#include "tests/structured/pcre2_reference.h"
#include "tests/structured/random_schema.h"
#include "tests/structured/record.h"
#include "tests/structured/walk.h"
#include "tests/test_paths.h"

namespace palu::structured {
namespace {

struct Model {
  const char* name;
  const char* eos;
  int vocabulary;
};

class RealVocabulary : public ::testing::TestWithParam<Model> {
 protected:
  void SetUp() override {
    const std::string directory = std::string("tokenizers/") + GetParam().name;
    PALU_REQUIRE_FIXTURE(directory);
    tokenizer_ = LoadTokenizer(palu::testing::FixturesDir() + "/" + directory);
    stop_id_ = tokenizer_->TokenId(GetParam().eos);
    ASSERT_GE(stop_id_, 0);
    vocabulary_ = std::make_shared<const Vocabulary>(*tokenizer_);
    ASSERT_EQ(vocabulary_->size(), GetParam().vocabulary);
  }

  std::shared_ptr<MaskedGrammar> Compile(StructuredSpec::Kind kind, const std::string& text) {
    StructuredSpec spec;
    spec.kind = kind;
    spec.text = text;
    const auto grammar = CompileSpec(spec, ToolFormat::kJson, *vocabulary_);
    return grammar ? std::make_shared<MaskedGrammar>(*grammar, vocabulary_) : nullptr;
  }

  // A walk to its end, whose text the tokenizer gives too.
  std::string Walk(const std::shared_ptr<MaskedGrammar>& masked, int max_tokens,
                   std::mt19937* random) {
    const Walked walked = RandomWalk(masked, max_tokens, random, 0.3, 5, stop_id_);
    EXPECT_TRUE(walked.complete) << walked.text;
    EXPECT_EQ(tokenizer_->Decode(walked.ids, /*skip_special=*/true), walked.text);
    return walked.text;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  int32_t stop_id_ = -1;
  std::shared_ptr<const Vocabulary> vocabulary_;
};

TEST_P(RealVocabulary, SchemasHold) {
  std::mt19937 random(11);
  for (int i = 0; i < 12; ++i) {
    const Json schema = RandomSchema(&random).Make();
    const auto grammar = CompileSchema(schema);
    ASSERT_TRUE(grammar.has_value()) << schema.dump();
    const auto masked = std::make_shared<MaskedGrammar>(*grammar, vocabulary_);
    for (int k = 0; k < 2; ++k) {
      const std::string text = Walk(masked, 400, &random);
      ASSERT_TRUE(nlohmann::json::accept(text)) << schema.dump() << "\n" << text;
      RecordOutput(schema, text);
    }
  }
}

TEST_P(RealVocabulary, RegexesHold) {
  std::mt19937 random(12);
  for (const char* pattern :
       {"[A-Z][a-z]+ (is|was) [0-9]{1,3}\\.[0-9]{2}", "(\\w+@\\w+\\.(com|org) ?){1,3}",
        "[ \\t]*(a|bc){3,}[^a-z]{2}", "(日本|é|[α-ω]{2})+", "\"([^\"\\\\]|\\\\.){0,40}\"",
        "#[0-9a-fA-F]{6}|rgb\\((\\d{1,3}, ){2}\\d{1,3}\\)"}) {
    const auto masked = Compile(StructuredSpec::Kind::kRegex, pattern);
    ASSERT_NE(masked, nullptr) << pattern;
    for (int k = 0; k < 6; ++k) {
      const std::string text = Walk(masked, 60, &random);
      EXPECT_TRUE(Pcre2Matches(pattern, text)) << pattern << "\n" << text;
    }
  }
}

// Arithmetic, whose brackets no regular expression can count.
TEST_P(RealVocabulary, GrammarsHold) {
  std::mt19937 random(13);
  const auto masked =
      Compile(StructuredSpec::Kind::kGrammar,
              "root ::= term (\" \" [-+*] \" \" term)*\nterm ::= [0-9]+ | \"(\" root \")\"");
  ASSERT_NE(masked, nullptr);
  for (int k = 0; k < 20; ++k) {
    const std::string text = Walk(masked, 80, &random);
    EXPECT_TRUE(Pcre2Matches("(?<t>\\d+|\\((?<r>(?&t)( [-+*] (?&t))*)\\))( [-+*] (?&t))*", text))
        << text;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, RealVocabulary,
                         ::testing::Values(Model{"llama3", "<|end_of_text|>", 128005},
                                           Model{"qwen2", "<|endoftext|>", 151646},
                                           Model{"llama2", "</s>", 32000},
                                           Model{"mistral", "</s>", 32000}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace palu::structured
