#include "server/structured/tool_grammar.h"

#include <string>

#include "server/structured/schema_compiler.h"

namespace palu::structured {
namespace {

// What stands around calls and arguments.
struct Shape {
  const char* mark;  // before everything; a token of its own where the vocabulary has it
  const char* open;
  const char* call;  // before the name
  const char* arguments;
  const char* end_call;
  const char* between;
  const char* close;
};

Shape ShapeOf(ToolFormat format) {
  switch (format) {
    case ToolFormat::kLlama3:
      return {"", "", "{\"name\": ", ", \"parameters\": ", "}", "; ", ""};
    case ToolFormat::kHermes:
      return {"", "", "<tool_call>\n{\"name\": ", ", \"arguments\": ", "}\n</tool_call>", "\n", ""};
    case ToolFormat::kMistral:
      return {"[TOOL_CALLS]", "[", "{\"name\": ", ", \"arguments\": ", "}", ", ", "]"};
    default:
      return {"", "[", "{\"name\": ", ", \"parameters\": ", "}", ", ", "]"};
  }
}

}  // namespace

Result<int> AddToolCalls(const ToolRequest& request, ToolFormat format,
                         const Vocabulary& vocabulary, GrammarBuilder* builder) {
  const Shape shape = ShapeOf(format);
  const int call = builder->NewRule();
  const int call_start = builder->NewNode();
  const int call_end = builder->NewNode();
  const int name = builder->AddText(call_start, shape.call);
  for (const Tool& tool : request.tools) {
    const Result<int> arguments = AddSchema(tool.parameters, builder);
    if (!arguments) {
      return tl::unexpected(
          InvalidArgument(arguments.error().message, tool.path + arguments.error().param));
    }
    const int named = builder->AddText(name, Json(tool.name).dump());
    const int value = builder->AddCall(builder->AddText(named, shape.arguments), *arguments);
    builder->AddEmpty(builder->AddText(value, shape.end_call), call_end);
  }
  builder->Define(call, call_start, call_end);

  const int rule = builder->NewRule();
  const int start = builder->NewNode();
  const std::string mark = shape.mark;
  const bool special = !mark.empty() && vocabulary.HasSpecial(mark);
  const int marked = builder->AddText(start, special ? kSpecialMark + mark : mark);
  int at = builder->AddCall(builder->AddText(marked, shape.open), call);
  if (request.parallel) {
    const int further = builder->NewRule();
    const int further_start = builder->NewNode();
    const int between = builder->AddText(further_start, shape.between);
    builder->Define(further, further_start, builder->AddCall(between, call));
    at = builder->AddCall(at, further, 0, -1);
  }
  builder->Define(rule, start, builder->AddText(at, shape.close));
  return rule;
}

}  // namespace palu::structured
