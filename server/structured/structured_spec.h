// What a client asks of the form of an output, before it is compiled.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/structured/schema_facets.h"

namespace palu::structured {

// How a model writes tool calls.
enum class ToolFormat {
  kJson,    // [{"name": …, "parameters": {…}}, …]; one object alone is read too
  kLlama3,  // {"name": …, "parameters": {…}}; more after "; "
  kHermes,  // <tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>, as Hermes and Qwen do
  kMistral,  // [TOOL_CALLS][{"name": …, "arguments": {…}}, …]; [TOOL_CALLS]name{…} is read too
};

// The format that a chat template shows its model.
ToolFormat ToolFormatOfTemplate(std::string_view chat_template);

struct Tool {
  std::string name;
  Json parameters = true;  // a schema
  std::string path;        // of parameters within the request, for messages
};

// The tools of a request, as far as the output is concerned.
struct ToolRequest {
  std::vector<Tool> tools;  // those that may be called
  bool forced = false;      // tool_choice: required, or a named one
  bool parallel = true;     // more than one call
};

struct StructuredSpec {
  enum class Kind { kAny, kJsonObject, kJsonSchema, kRegex, kChoice, kGrammar };
  Kind kind = Kind::kAny;
  Json schema = true;                // kJsonSchema
  std::string text;                  // kRegex, kGrammar
  std::vector<std::string> choices;  // kChoice
  std::string param;                 // field of the request, for messages
  // Calls of these instead, if forced; or besides, if kind is not kAny.
  ToolRequest tools;

  bool constrains() const { return kind != Kind::kAny || tools.forced; }
};

}  // namespace palu::structured
