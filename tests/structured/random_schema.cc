#include "tests/structured/random_schema.h"

#include <string>
#include <vector>

namespace palu::structured {

using Json = nlohmann::ordered_json;

Json RandomSchema::Make() {
  Json schema = Chance(60) ? Object(3) : Any(3);
  if (!schema.is_object()) schema = Json::object();
  schema["$defs"] = {
      {"list",
       {{"type", "object"},
        {"properties",
         {{"head", Any(0)},
          {"tail", {{"anyOf", {{{"$ref", "#/$defs/list"}}, {{"type", "null"}}}}}}}},
        {"required", {"head", "tail"}},
        {"additionalProperties", false}}},
      {"tree", {{"type", "array"}, {"items", {{"$ref", "#/$defs/tree"}}}, {"maxItems", 3}}}};
  return schema;
}

Json RandomSchema::Any(int depth) {
  switch (Draw(depth > 0 ? 12 : 7)) {
    case 0:
      return {{"type", "null"}};
    case 1:
      return {{"type", "boolean"}};
    case 2:
    case 3:
      return Number();
    case 4:
    case 5:
      return String();
    case 6:
      return Values();
    case 7:
      return Array(depth);
    case 8:
    case 9:
      return Object(depth);
    case 10:
      return Combination(depth);
    default:
      return {{"$ref", Chance(50) ? "#/$defs/list" : "#/$defs/tree"}};
  }
}

Json RandomSchema::Number() {
  Json schema = {{"type", Chance(60) ? "integer" : "number"}};
  const bool integer = schema["type"] == "integer";
  const double low = Draw(2000) - 1000;
  const double scale = integer ? 1 : Chance(50) ? 0.01 : 0.5;
  if (Chance(50)) schema[Chance(70) ? "minimum" : "exclusiveMinimum"] = low * scale;
  if (Chance(50)) {
    schema[Chance(70) ? "maximum" : "exclusiveMaximum"] = (low + 30 + Draw(5000)) * scale;
  }
  if (integer && Chance(20)) schema["multipleOf"] = 1 + Draw(12);
  return schema;
}

Json RandomSchema::String() {
  static const std::vector<std::string> kPatterns = {
      "^[a-z]{2,5}$", "[0-9]",         "^(foo|bar)+$", "^\\S+@\\S+$", "x$",
      "^[^\"\\\\]*$", "\\d{3}-\\d{4}", "^.$",          "é|ß",         "^\\w*$"};
  static const std::vector<std::string> kFormats = {"date", "time",  "date-time", "uuid",    "ipv4",
                                                    "ipv6", "email", "hostname",  "duration"};
  Json schema = {{"type", "string"}};
  switch (Draw(4)) {
    case 0:
      schema["minLength"] = Draw(5);
      if (Chance(70)) schema["maxLength"] = 5 + Draw(40);
      break;
    case 1:
      schema["pattern"] = kPatterns[static_cast<size_t>(Draw(static_cast<int>(kPatterns.size())))];
      break;
    case 2:
      schema["format"] = kFormats[static_cast<size_t>(Draw(static_cast<int>(kFormats.size())))];
      break;
    default:
      break;
  }
  return schema;
}

Json RandomSchema::Array(int depth) {
  Json schema = {{"type", "array"}};
  if (Chance(80)) schema["items"] = Any(depth - 1);
  if (Chance(25)) {
    schema["prefixItems"] = Json::array({Any(depth - 1), Any(depth - 1)});
    if (Chance(30)) schema["items"] = false;
  }
  const bool closed = schema.contains("items") && schema["items"] == false;
  if (Chance(50)) schema["minItems"] = Draw(3);
  if (Chance(50) && !closed) schema["maxItems"] = 2 + Draw(30);
  return schema;
}

Json RandomSchema::Object(int depth) {
  static const std::vector<std::string> kNames = {
      "a", "ab", "abc", "name", "value", "items", "日本", "a\"b\\", "x y z", "", "id"};
  Json schema = {{"type", "object"}, {"properties", Json::object()}};
  Json required = Json::array();
  const int count = Draw(5);
  for (int i = 0; i < count; ++i) {
    const std::string& name = kNames[static_cast<size_t>(Draw(static_cast<int>(kNames.size())))];
    if (schema["properties"].contains(name)) continue;
    schema["properties"][name] = Any(depth - 1);
    if (Chance(60)) required.push_back(name);
  }
  schema["required"] = required;
  const int further = Draw(10);
  if (further < 6) schema["additionalProperties"] = false;
  if (further == 6) schema["additionalProperties"] = Any(0);
  if (count == 0 && Chance(50)) {
    schema["maxProperties"] = 3;
    schema["additionalProperties"] = Any(0);
  }
  return schema;
}

Json RandomSchema::Values() {
  static const Json kValues = Json::parse(
      R"(["a", "ab", "", "x\"y\n", "日本", 1, -2.5, 0, null, true, {"k": [1, {}]}, [], 1e3])");
  Json values = Json::array();
  const int count = 1 + Draw(4);
  for (int i = 0; i < count; ++i) {
    values.push_back(kValues[static_cast<size_t>(Draw(static_cast<int>(kValues.size())))]);
  }
  if (Chance(30)) return {{"const", values[0]}};
  return {{"enum", values}};
}

Json RandomSchema::Combination(int depth) {
  if (Chance(60)) return {{"anyOf", {Any(depth - 1), Any(depth - 1), Any(0)}}};
  if (Chance(50)) {
    Json a = Object(depth - 1), b = Object(depth - 1);
    a["properties"]["kind"] = {{"const", "A"}};
    b["properties"]["kind"] = {{"const", "B"}};
    a["required"].push_back("kind");
    b["required"].push_back("kind");
    for (Json* branch : {&a, &b}) branch->erase("maxProperties");
    return {{"oneOf", {a, b}}};
  }
  return {
      {"allOf",
       {{{"type", "object"}, {"properties", {{"p", {{"type", "integer"}}}}}, {"required", {"p"}}},
        {{"properties", {{"p", {{"minimum", 10}}}, {"q", Any(depth - 1)}}}}}}};
}

}  // namespace palu::structured
