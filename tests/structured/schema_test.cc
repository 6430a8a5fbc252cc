// Schemas: which texts their grammars take, and which schemas are refused where.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/structured/schema_compiler.h"
#include "tests/structured/walk.h"

namespace palu::structured {
namespace {

struct Case {
  const char* schema;
  std::vector<std::string> valid, invalid;
};

class Schemas : public testing::TestWithParam<Case> {};

TEST_P(Schemas, TakeWhatTheySay) {
  const auto grammar = CompileSchema(Json::parse(GetParam().schema));
  ASSERT_TRUE(grammar.has_value()) << grammar.error().param << " " << grammar.error().message;
  for (const std::string& text : GetParam().valid) EXPECT_TRUE(Matches(**grammar, text)) << text;
  for (const std::string& text : GetParam().invalid) EXPECT_FALSE(Matches(**grammar, text)) << text;
}

const Case kCases[] = {
    {R"({"type": "null"})", {"null"}, {"", "nul", "true", " null", "null "}},
    {R"({"type": "boolean"})", {"true", "false"}, {"1", "truefalse"}},
    {R"(true)", {"1", "[]", R"({"a": [1, {"b": null}]})", R"("\u00e9")"}, {"", "[1,]", "{,}"}},
    {R"({"type": "integer"})", {"0", "-1", "12345"}, {"-0", "01", "1.5", "1e3", "-", ""}},
    {R"({"type": "number"})", {"0", "-0.5", "1e3", "12.25E-2"}, {"01", ".5", "1.", "1e", "+1"}},
    {R"({"type": "integer", "minimum": -3, "maximum": 12})",
     {"-3", "-1", "0", "9", "10", "12"},
     {"-4", "13", "100", "-10", "1.0"}},
    {R"({"type": "integer", "exclusiveMinimum": 98, "maximum": 1000})",
     {"99", "100", "999", "1000"},
     {"98", "1001", "9", "-99", "0"}},
    {R"({"type": "integer", "maximum": -10})", {"-10", "-11", "-99999"}, {"-9", "0", "10"}},
    {R"({"type": "number", "minimum": 0.5, "exclusiveMaximum": 2})",
     {"0.5", "0.50", "0.75", "1", "1.999"},
     {"0.49", "0.4", "0", "2", "2.0", "-1", "1e0", "10", "1."}},
    {R"({"type": "number", "exclusiveMinimum": 0, "maximum": 1e-2})",
     {"0.01", "0.001", "0.010"},
     {"0", "0.0", "0.011", "-0.01", "1"}},
    {R"({"type": "number", "exclusiveMaximum": 0})", {"-0.1", "-5"}, {"0", "-0", "-0.0", "1"}},
    {R"({"type": "integer", "multipleOf": 7, "minimum": 1})",
     {"7", "14", "7777"},
     {"0", "1", "-7", "15"}},
    {R"({"type": "string", "minLength": 2, "maxLength": 3})",
     {R"("ab")", R"("abc")", R"("é日")", R"("\n\"")", R"("\ud83d\ude00x")"},
     {R"("a")", R"("abcd")", R"("")", R"("\ud83dx")", "\"\xC3\""}},
    {R"({"type": "string", "pattern": "^[a-c]+$"})", {R"("abc")"}, {R"("")", R"("abd")"}},
    {R"({"type": "string", "pattern": "b", "maxLength": 3})",
     {R"("b")", R"("abc")", R"("\"b")"},
     {R"("")", R"("ac")", R"("aabc")"}},
    {R"({"type": "string", "pattern": "^\"\\\\\\n$"})", {R"("\"\\\n")"}, {R"("n")"}},
    {R"({"type": "string", "format": "date"})",
     {R"("2024-02-28")", R"("1999-12-31")"},
     {R"("2024-02-30")", R"("2024-13-01")", R"("x2024-01-01")"}},
    {R"({"enum": ["a", 1, null, {"b": [2]}]})",
     {R"("a")", "1", "null", R"({"b":[2]})"},
     {R"("b")", "2", "{}"}},
    {R"({"type": "string", "enum": ["a", 1, "bcd"], "minLength": 2})",
     {R"("bcd")"},
     {R"("a")", "1"}},
    {R"({"const": "x y"})", {R"("x y")"}, {R"("xy")"}},
    {R"({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3})",
     {"[1]", "[1, 2]", "[ 1,2,3 ]", "[\n  1,\n  2\n]"},
     {"[]", "[1,2,3,4]", "[1,]", "[1 2]", "[\"a\"]", "[1,  2]"}},
    {R"({"type": "array", "maxItems": 0})", {"[]", "[ ]"}, {"[1]"}},
    {R"({"type": "array", "prefixItems": [{"type": "string"}, {"type": "null"}],
         "items": {"type": "boolean"}, "minItems": 1, "maxItems": 4})",
     {R"(["a"])", R"(["a",null])", R"(["a",null,true])", R"(["a",null,true,false])"},
     {"[]", "[null]", R"(["a",true])", R"(["a",null,true,false,true])"}},
    {R"({"type": "array", "prefixItems": [{"type": "null"}], "items": false})",
     {"[]", "[null]"},
     {"[null,null]", "[1]"}},
    {R"({"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "null"}},
         "required": ["b", "a"], "additionalProperties": false})",
     {R"({"b":1,"a":null})", R"({ "b": 1, "a": null })", "{\n\t\"b\": 1,\n\t\"a\": null\n}"},
     {"{}", R"({"a":null,"b":1})", R"({"b":1})", R"({"b":1,"a":null,"c":1})",
      R"({"b":1,"a":null,})", R"({"b":1 "a":null})"}},
    {R"({"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"},
         "c": {"type": "null"}}, "required": ["b"], "additionalProperties": false})",
     {R"({"b":null})", R"({"a":null,"b":null})", R"({"b":null,"c":null})",
      R"({"a":null,"b":null,"c":null})"},
     {"{}", R"({"a":null})", R"({"a":null,"c":null})", R"({"c":null})", R"({,"b":null})"}},
    {R"({"type": "object", "properties": {"aa": {"type": "null"}}})",
     {"{}", R"({"aa":null})", R"({"aa":null,"a":1})", R"({"aaa":[]})", R"({"":1,"b":2})"},
     {R"({"aa":1})", R"({"a":1,"aa":1})", R"({"aa":null,})"}},
    {R"({"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2,
         "minProperties": 1})",
     {R"({"a":1})", R"({"a":1,"b":2})"},
     {"{}", R"({"a":null})", R"({"a":1,"b":2,"c":3})"}},
    {R"({"type": "object", "propertyNames": {"pattern": "^x"}})",
     {"{}", R"({"xa":1})"},
     {R"({"a":1})"}},
    {R"({"type": "object", "required": ["k"]})", {R"({"k":[1]})"}, {"{}", R"({"a":1})"}},
    {R"({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]})",
     {"5", R"("a")"},
     {R"("ab")", "null"}},
    {R"({"oneOf": [{"type": "object", "properties": {"k": {"const": "a"}, "x": {"type": "null"}},
         "required": ["k", "x"], "additionalProperties": false},
         {"type": "object", "properties": {"k": {"const": "b"}}, "required": ["k"],
         "additionalProperties": false}]})",
     {R"({"k":"a","x":null})", R"({"k":"b"})"},
     {R"({"k":"a"})", R"({"k":"b","x":null})"}},
    {R"({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
         {"properties": {"a": {"minimum": 5}, "b": {"type": "null"}}}]})",
     {R"({"a":5})", R"({"a":50,"b":null})"},
     {R"({"a":4})", R"({"b":null})", R"({"a":5,"b":1})"}},
    {R"({"type": ["integer", "null"], "minimum": 3})", {"null", "3"}, {"2", R"("a")"}},
    {R"({"minLength": 3})", {R"("abc")", "1", "null", "{}"}, {R"("ab")"}},
    {R"({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object",
         "properties": {"v": {"type": "integer"}, "kids": {"type": "array",
         "items": {"$ref": "#/$defs/tree"}}}, "required": ["v", "kids"],
         "additionalProperties": false}}})",
     {R"({"v":1,"kids":[]})",
      R"({"v":1,"kids":[{"v":2,"kids":[{"v":3,"kids":[]}]},{"v":4,"kids":[]}]})"},
     {R"({"v":1})", R"({"v":1,"kids":[{"v":2}]})"}},
    {R"({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
         "required": ["next"], "additionalProperties": false})",
     {R"({"next":null})", R"({"next":{"next":null}})"},
     {"null", R"({"next":{}})"}},
};

INSTANTIATE_TEST_SUITE_P(Table, Schemas, testing::ValuesIn(kCases));

struct Refused {
  const char* schema;
  const char* path;
};

class BadSchemas : public testing::TestWithParam<Refused> {};

TEST_P(BadSchemas, AreRefusedWithThePath) {
  const auto grammar = CompileSchema(Json::parse(GetParam().schema));
  ASSERT_FALSE(grammar.has_value());
  EXPECT_EQ(grammar.error().code, StatusCode::kInvalidArgument);
  EXPECT_EQ(grammar.error().param, GetParam().path) << grammar.error().message;
  EXPECT_FALSE(grammar.error().message.empty());
}

const Refused kRefused[] = {
    {R"(5)", ""},
    {R"({"type": "strin"})", "/type"},
    {R"({"type": "object", "properties": {"a": {"type": 5}}})", "/properties/a/type"},
    {R"({"type": "object", "properties": {"a": 5}})", "/properties/a"},
    {R"({"type": "array", "items": {"not": {}}})", "/items/not"},
    {R"({"type": "array", "uniqueItems": true})", "/uniqueItems"},
    {R"({"if": {}})", "/if"},
    {R"x({"type": "string", "pattern": "a(?=b)"})x", "/pattern"},
    {R"x({"type": "string", "pattern": "("})x", "/pattern"},
    {R"({"type": "string", "format": "no-such"})", "/format"},
    {R"({"type": "string", "minLength": 3, "maxLength": 2})", "/maxLength"},
    {R"({"type": "string", "minLength": -1})", "/minLength"},
    {R"({"type": "number", "multipleOf": 0.1})", "/multipleOf"},
    {R"({"type": "integer", "minimum": "1"})", "/minimum"},
    {R"({"$ref": "#/$defs/missing"})", "/$ref"},
    {R"({"$ref": "http://example.com/a"})", "/$ref"},
    {R"({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"})", "/$defs/a"},
    {R"({"anyOf": []})", "/anyOf"},
    {R"({"anyOf": [{"type": "string"}, {"enum": []}]})", "/anyOf/1/enum"},
    {R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})", "/oneOf"},
    {R"({"type": "object", "patternProperties": {}})", "/patternProperties"},
    {R"({"type": "object", "properties": {"a": {}}, "minProperties": 2})", "/minProperties"},
    {R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})", ""},
    {R"({"allOf": [{"type": "string"}, {"type": "integer"}]})", ""},
    {R"(false)", ""},
};

INSTANTIATE_TEST_SUITE_P(Table, BadSchemas, testing::ValuesIn(kRefused));

}  // namespace
}  // namespace palu::structured
