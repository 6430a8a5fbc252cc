// Random schemas, random tokens under the mask: what comes out always parses, and the mask is what
// a slow look at every token says.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server/structured/schema_compiler.h"
#include "server/structured/structured_output.h"
#include "tests/structured/random_schema.h"
#include "tests/structured/record.h"
#include "tests/structured/walk.h"

namespace palu::structured {
namespace {

void WalkSchemas(std::shared_ptr<const Vocabulary> vocabulary, uint32_t seed, int schemas) {
  std::mt19937 random(seed);
  int complete = 0;
  for (int i = 0; i < schemas; ++i) {
    const Json schema = RandomSchema(&random).Make();
    const auto grammar = CompileSchema(schema);
    ASSERT_TRUE(grammar.has_value())
        << grammar.error().param << " " << grammar.error().message << "\n"
        << schema.dump();
    const auto masked = std::make_shared<MaskedGrammar>(*grammar, vocabulary);
    for (int k = 0; k < 3; ++k) {
      const Walked walked = RandomWalk(masked, 400, &random, 0.3, 10);
      // The longest of the shortest completions is well below the budget.
      ASSERT_TRUE(walked.complete) << schema.dump() << "\n" << walked.text;
      ASSERT_TRUE(nlohmann::json::accept(walked.text)) << schema.dump() << "\n" << walked.text;
      ASSERT_TRUE(Matches(**grammar, walked.text));
      ++complete;
      RecordOutput(schema, walked.text);
    }
  }
  EXPECT_EQ(complete, 3 * schemas);
}

// Grammars with places where any text of some kind can be read, which masks take as a whole; some
// of them look like such places and are none.
const std::pair<StructuredSpec::Kind, const char*> kRuns[] = {
    {StructuredSpec::Kind::kJsonSchema, R"({"type": "string", "maxLength": 12})"},
    {StructuredSpec::Kind::kJsonSchema, R"({"type": "string", "minLength": 5, "maxLength": 40})"},
    {StructuredSpec::Kind::kJsonSchema, R"({"type": "string", "pattern": "^[a-z ]+x?$"})"},
    {StructuredSpec::Kind::kJsonSchema, R"({"type": "string", "pattern": "ab"})"},
    {StructuredSpec::Kind::kRegex, "[a-z ]*"},
    {StructuredSpec::Kind::kRegex, ".*"},
    {StructuredSpec::Kind::kRegex, "[^]*"},
    {StructuredSpec::Kind::kRegex, "[^\"]{3,9}\\."},
    {StructuredSpec::Kind::kRegex, "(\\w+;)*z"},
    {StructuredSpec::Kind::kRegex, "[^a]*ab?|[a-z]{2,7}[0-9]"},
    {StructuredSpec::Kind::kRegex, "[\\u0000-\\uD7FF\\uE000-\\uFFFF]*"},
    {StructuredSpec::Kind::kGrammar, "root ::= word (\" \" word)*\nword ::= [a-z]+"},
    {StructuredSpec::Kind::kGrammar, "root ::= c{2,5} \"x\" | c{4,}\nc ::= [^x]"},
    {StructuredSpec::Kind::kGrammar, "root ::= item* tail\nitem ::= [a-z]\ntail ::= [a-z0-9]*"},
    {StructuredSpec::Kind::kGrammar, "root ::= c* \".\"\nc ::= [a-z] | \"ab\" \".c\""},
    {StructuredSpec::Kind::kGrammar, "root ::= c{3,}\nc ::= [^\\x00-\\x1F]"},
    {StructuredSpec::Kind::kGrammar, "root ::= c{0,6} list?\nc ::= [^,]\nlist ::= \",\" root"},
    {StructuredSpec::Kind::kGrammar, "root ::= (c* \"!\"?)*\nc ::= [a-zA-Z .]"},
};

TEST(SchemaWalk, RunsOfTextAreWhatTheSlowWaySays) {
  const auto vocabulary = JsonVocabulary();
  std::mt19937 random(6);
  for (const auto& [kind, text] : kRuns) {
    StructuredSpec spec;
    spec.kind = kind;
    if (kind == StructuredSpec::Kind::kJsonSchema) {
      spec.schema = Json::parse(text);
    } else {
      spec.text = text;
    }
    const auto grammar = CompileSpec(spec, ToolFormat::kJson, *vocabulary);
    ASSERT_TRUE(grammar.has_value()) << text << ": " << grammar.error().message;
    const auto masked = std::make_shared<MaskedGrammar>(*grammar, vocabulary);
    for (int k = 0; k < 4; ++k) {
      const Walked walked = RandomWalk(masked, 40, &random, 0.05, 600);
      EXPECT_TRUE(walked.complete) << text << "\n" << walked.text;
    }
  }
}

TEST(SchemaWalk, Bytes) { WalkSchemas(MakeVocabulary({}), 1, 60); }
TEST(SchemaWalk, PiecesOfJson) { WalkSchemas(JsonVocabulary(), 2, 150); }
TEST(SchemaWalk, LeadingSpaceIsStripped) { WalkSchemas(JsonVocabulary(true), 3, 60); }

TEST(SchemaWalk, AnyObjectEndsWithinTheBudget) {
  const auto masked = std::make_shared<MaskedGrammar>(CompileJsonObject(), JsonVocabulary());
  std::mt19937 random(4);
  for (int max_tokens = 3; max_tokens < 60; ++max_tokens) {
    const Walked walked = RandomWalk(masked, max_tokens, &random, 0.0, 5);
    EXPECT_TRUE(walked.complete) << walked.text;
    EXPECT_LT(walked.tokens, max_tokens) << "no token was left for the end";
    EXPECT_TRUE(nlohmann::json::accept(walked.text)) << walked.text;
  }
}

// The shortest object has 26 bytes, but fewer tokens: a budget in between is kept by taking the
// longest tokens on the shortest way.
TEST(SchemaWalk, TightBudgetTakesTheShortestWay) {
  const auto grammar = CompileSchema(Json::parse(
      R"({"type": "object", "properties": {"name": {"type": "string"}, "items": {"type": "array"}},
          "required": ["name", "items"], "additionalProperties": false})"));
  const auto masked = std::make_shared<MaskedGrammar>(*grammar, JsonVocabulary());
  std::mt19937 random(5);
  EXPECT_EQ((*grammar)->RuleDistance((*grammar)->root), 22);
  const Walked walked = RandomWalk(masked, 16, &random);
  EXPECT_TRUE(walked.complete) << walked.text;
  EXPECT_TRUE(nlohmann::json::accept(walked.text)) << walked.text;
  EXPECT_FALSE(RandomWalk(masked, 3, &random).complete);
}

TEST(SchemaWalk, SpecialTokensAreNoText) {
  const auto vocabulary = JsonVocabulary();
  const auto masked = std::make_shared<MaskedGrammar>(
      *CompileSchema(Json::parse(R"({"type": "string"})")), vocabulary);
  GrammarWalk walk(masked, {kStop});
  const auto token_of = [&](const std::string& bytes) {
    for (int32_t t = 0; t < vocabulary->size(); ++t) {
      if (vocabulary->bytes(t) == bytes) return t;
    }
    return -1;
  };
  EXPECT_TRUE(vocabulary->HasSpecial("<tool>"));
  ASSERT_TRUE(walk.Accept(token_of("\"")));
  walk.FillMask(100);
  const auto allowed = [&](const std::string& bytes) {
    const int32_t t = token_of(bytes);
    return ((walk.mask()[static_cast<size_t>(t) / 32] >> (t % 32)) & 1) != 0;
  };
  EXPECT_TRUE(allowed("<tool_call>"));
  EXPECT_FALSE(allowed("\xFF<tool>"));
  EXPECT_FALSE(allowed("\n"));
}

TEST(SchemaWalk, NothingFollowsAWrongToken) {
  const auto masked = std::make_shared<MaskedGrammar>(
      *CompileSchema(Json::parse(R"({"type": "null"})")), MakeVocabulary({}));
  GrammarWalk walk(masked, {kStop});
  EXPECT_FALSE(walk.Accept(1 + 'x'));
  walk.FillMask(10);
  EXPECT_TRUE(walk.must_stop());
  EXPECT_FALSE(walk.complete());
}

}  // namespace
}  // namespace palu::structured
