// Tool calls: what models write, cut anywhere, and what the grammar enforces.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/structured/structured_output.h"
#include "server/structured/tool_call_reader.h"
#include "tests/structured/walk.h"

namespace palu::structured {
namespace {

// Events as one text: content, <name>(arguments).
std::string Describe(const std::vector<ToolEvent>& events) {
  std::string text;
  bool open = false;
  for (const ToolEvent& event : events) {
    if (open && event.kind != ToolEvent::Kind::kArguments) text += ")";
    if (event.kind == ToolEvent::Kind::kCall) text += "<" + event.text + ">(";
    if (event.kind != ToolEvent::Kind::kCall) text += event.text;
    open =
        event.kind == ToolEvent::Kind::kCall || (open && event.kind == ToolEvent::Kind::kArguments);
  }
  return open ? text + ")" : text;
}

std::string Read(ToolFormat format, bool forced, const std::string& text, size_t piece) {
  ToolCallReader reader(format, forced, {"f", "get_weather"});
  std::vector<ToolEvent> events;
  for (size_t i = 0; i < text.size(); i += piece) reader.Push(text.substr(i, piece), &events);
  reader.Finish(&events);
  return Describe(events);
}

struct Case {
  ToolFormat format;
  const char* text;
  const char* expected;
};

class Readers : public testing::TestWithParam<Case> {};

TEST_P(Readers, GiveTheSameHoweverTheTextIsCut) {
  for (const size_t piece : {1, 2, 3, 7, 1000}) {
    EXPECT_EQ(Read(GetParam().format, false, GetParam().text, piece), GetParam().expected) << piece;
  }
}

const Case kCases[] = {
    {ToolFormat::kHermes, "Just text with < and <tool.", "Just text with < and <tool."},
    {ToolFormat::kHermes, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
     "<f>({\"a\": 1})"},
    {ToolFormat::kHermes,
     "Hm. <tool_call>{\"name\":\"f\",\"arguments\":{\"s\":\"}\\\"]\"}}</tool_call>\n"
     "<tool_call>\n{\"arguments\": {}, \"name\": \"other\"}\n</tool_call>\n",
     "Hm. <f>({\"s\":\"}\\\"]\"})<other>({})"},
    {ToolFormat::kHermes, "<tool_call>{\"name\": \"f\"}</tool_call> then", "<f>({})then"},
    {ToolFormat::kHermes, "<tool_call>nonsense</tool_call>", "<tool_call>nonsense</tool_call>"},
    {ToolFormat::kJson, "[{\"name\": \"f\"}, {\"x\": 1}} {y", "<f>({}){\"x\": 1}} {y"},
    {ToolFormat::kHermes, "<tool_call>{\"name\": \"\"}</tool_call>",
     "<tool_call>{\"name\": \"\"}</tool_call>"},
    {ToolFormat::kHermes, "<tool_call>{\"nam\": 1}</tool_call>",
     "<tool_call>{\"nam\": 1}</tool_call>"},
    {ToolFormat::kHermes, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1",
     "<f>({\"a\": [1)"},
    {ToolFormat::kHermes, "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 2}\"}",
     "<f>({\"a\": 2})"},
    {ToolFormat::kLlama3, "{\"name\": \"f\", \"parameters\": {\"a\": [1, {}] }}",
     "<f>({\"a\": [1, {}] })"},
    {ToolFormat::kLlama3,
     "<|python_tag|>{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}; "
     "{\"name\": \"get_weather\", \"parameters\": {\"c\": \"x\"}}",
     "<f>({})<get_weather>({\"c\": \"x\"})"},
    {ToolFormat::kLlama3, "{\"name\": \"unknown\", \"x\": 1}", "{\"name\": \"unknown\", \"x\": 1}"},
    {ToolFormat::kLlama3, "{\"answer\": 5} and more", "{\"answer\": 5} and more"},
    {ToolFormat::kLlama3, "The set {\"name\": \"f\"}", "The set {\"name\": \"f\"}"},
    {ToolFormat::kMistral,
     "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}}, "
     "{\"name\": \"g\", \"arguments\": {}}]",
     "<f>({\"a\": 1})<g>({})"},
    {ToolFormat::kMistral, "Hi[TOOL_CALLS]f{\"a\": {\"b\": 1}}[TOOL_CALLS]g[ARGS]{}",
     "Hi<f>({\"a\": {\"b\": 1}})<g>({})"},
    {ToolFormat::kMistral, "An [array] of [TOOL", "An [array] of [TOOL"},
    {ToolFormat::kJson, " [{\"name\": \"f\", \"parameters\": {\"x\": null}}]",
     "<f>({\"x\": null})"},
    {ToolFormat::kJson, "{\"name\": \"f\", \"arguments\": {}}", "<f>({})"},
    {ToolFormat::kJson, "[1, 2]", "[1, 2]"},
    {ToolFormat::kJson, "", ""},
};

INSTANTIATE_TEST_SUITE_P(Table, Readers, testing::ValuesIn(kCases));

ToolRequest TwoTools() {
  ToolRequest request;
  request.forced = true;
  request.tools.push_back(
      {"f", Json::parse(R"({"type": "object", "properties": {"city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["city", "days"],
        "additionalProperties": false})"),
       "tools[0].function.parameters"});
  request.tools.push_back(
      {"get_weather", Json{{"type", "object"}}, "tools[1].function.parameters"});
  return request;
}

TEST(ToolGrammar, WhatIsForcedIsReadAsCalls) {
  std::mt19937 random(11);
  for (const ToolFormat format :
       {ToolFormat::kJson, ToolFormat::kLlama3, ToolFormat::kHermes, ToolFormat::kMistral}) {
    for (const bool parallel : {false, true}) {
      StructuredSpec spec;
      spec.param = "tools";
      spec.tools = TwoTools();
      spec.tools.parallel = parallel;
      const auto vocabulary = JsonVocabulary();
      const auto grammar = CompileSpec(spec, format, *vocabulary);
      ASSERT_TRUE(grammar.has_value()) << grammar.error().message;
      const auto masked = std::make_shared<MaskedGrammar>(*grammar, vocabulary);
      for (int i = 0; i < 10; ++i) {
        const Walked walked = RandomWalk(masked, 400, &random, 0.5, 3);
        ASSERT_TRUE(walked.complete) << walked.text;
        ToolCallReader reader(format, true, {"f", "get_weather"});
        std::vector<ToolEvent> events;
        reader.Push(walked.text, &events);
        reader.Finish(&events);
        EXPECT_GE(reader.calls(), 1) << walked.text;
        EXPECT_TRUE(parallel || reader.calls() == 1) << walked.text;
        std::string arguments;
        for (const ToolEvent& event : events) {
          ASSERT_NE(event.kind, ToolEvent::Kind::kContent) << walked.text;
          if (event.kind == ToolEvent::Kind::kCall) arguments.clear();
          if (event.kind == ToolEvent::Kind::kArguments) arguments += event.text;
        }
        EXPECT_TRUE(Json::parse(arguments, nullptr, false).is_object()) << arguments;
      }
    }
  }
}

TEST(ToolGrammar, AsksForTheSpecialTokenWhereThereIsOne) {
  StructuredSpec spec;
  spec.tools = TwoTools();
  const auto vocabulary = MakeVocabulary({"\xFF[TOOL_CALLS]"});
  const auto grammar = CompileSpec(spec, ToolFormat::kMistral, *vocabulary);
  ASSERT_TRUE(grammar.has_value());
  const std::string call = "[{\"name\": \"get_weather\", \"arguments\": {}}]";
  EXPECT_TRUE(Matches(**grammar, "\xFF[TOOL_CALLS]" + call));
  EXPECT_FALSE(Matches(**grammar, "[TOOL_CALLS]" + call));
}

TEST(ToolGrammar, AnswersInTheFormOrCalls) {
  StructuredSpec spec;
  spec.kind = StructuredSpec::Kind::kChoice;
  spec.choices = {"yes", "no"};
  spec.tools = TwoTools();
  spec.tools.forced = false;
  const auto vocabulary = MakeVocabulary({});
  const auto grammar = CompileSpec(spec, ToolFormat::kLlama3, *vocabulary);
  ASSERT_TRUE(grammar.has_value());
  EXPECT_TRUE(Matches(**grammar, "yes"));
  EXPECT_TRUE(Matches(**grammar, "{\"name\": \"f\", \"parameters\": {\"city\":\"x\",\"days\":3}}"));
  EXPECT_FALSE(Matches(**grammar, "maybe"));
}

TEST(ToolGrammar, ABadSchemaIsNamed) {
  StructuredSpec spec;
  spec.param = "tools";
  spec.tools = TwoTools();
  spec.tools.tools[1].parameters = Json::parse(R"({"properties": {"a": {"type": "strin"}}})");
  const auto grammar = CompileSpec(spec, ToolFormat::kHermes, *MakeVocabulary({}));
  ASSERT_FALSE(grammar.has_value());
  EXPECT_EQ(grammar.error().param, "tools[1].function.parameters/properties/a/type");
}

TEST(ToolFormats, FollowTheTemplate) {
  EXPECT_EQ(ToolFormatOfTemplate("… <tool_call> …"), ToolFormat::kHermes);
  EXPECT_EQ(ToolFormatOfTemplate("… [TOOL_CALLS] …"), ToolFormat::kMistral);
  EXPECT_EQ(ToolFormatOfTemplate("… <|start_header_id|> …"), ToolFormat::kLlama3);
  EXPECT_EQ(ToolFormatOfTemplate("{{ messages }}"), ToolFormat::kJson);
}

TEST(Ebnf, GrammarsTakeWhatTheySay) {
  const auto compile = [](const char* text) {
    StructuredSpec spec;
    spec.kind = StructuredSpec::Kind::kGrammar;
    spec.text = text;
    spec.param = "guided_grammar";
    return CompileSpec(spec, ToolFormat::kJson, *MakeVocabulary({}));
  };
  const auto sums = compile(
      "# sums\nroot ::= term (\" + \" term)*\nterm ::= [0-9]+ | \"(\" root \")\"\n  | \"x\"{2,3}");
  ASSERT_TRUE(sums.has_value()) << sums.error().message;
  for (const char* text : {"1", "12 + (3 + x)", "xx + 4", "((7))", "xxx"}) {
    const bool valid = std::string_view(text) != "12 + (3 + x)";
    EXPECT_EQ(Matches(**sums, text), valid) << text;
  }
  EXPECT_FALSE(Matches(**sums, "1 +"));
  EXPECT_FALSE(Matches(**sums, "x"));
  EXPECT_FALSE(Matches(**sums, "xxxx"));
  const auto list = compile("root ::= \"a\" root | \"\\n\" [^a-z\\]]? \"é\"");
  ASSERT_TRUE(list.has_value()) << list.error().message;
  EXPECT_TRUE(Matches(**list, "aaa\n日é"));
  EXPECT_TRUE(Matches(**list, "\né"));
  EXPECT_FALSE(Matches(**list, "a\nbé"));
  for (const char* bad :
       {"", "root ::= missing", "other ::= \"a\"", "root ::= \"a", "root ::= (\"a\"",
        "root ::= root \"a\" | \"b\"", "root ::= [b-a]", "root = \"a\"",
        "root ::= \"a\"\nroot ::= \"b\"", "root ::= \"a\"{3,2}", "root ::= \"a\" root"}) {
    const auto grammar = compile(bad);
    ASSERT_FALSE(grammar.has_value()) << bad;
    EXPECT_EQ(grammar.error().param, "guided_grammar") << bad;
  }
}

}  // namespace
}  // namespace palu::structured
