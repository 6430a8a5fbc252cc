#include "server/openai_structured.h"

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <utility>

namespace palu {
namespace {

using structured::Json;
using structured::StructuredSpec;
using structured::Tool;
using structured::ToolRequest;

// Insertion into an ordered object is linear in its size.
constexpr size_t kMaxOrderedKeys = 4096;
constexpr size_t kMaxTools = 512;
constexpr size_t kMaxChoices = 10000;

bool HasLargeObject(const nlohmann::json& value) {
  if (!value.is_structured()) return false;
  if (value.is_object() && value.size() > kMaxOrderedKeys) return true;
  return std::any_of(value.begin(), value.end(), HasLargeObject);
}

// Reads the fields that ask for a form; at most one of them may.
class FormReader {
 public:
  FormReader(JsonFields* fields, const Json& body, StructuredSpec* spec)
      : fields_(*fields), body_(body), spec_(*spec) {}

  void Run() {
    ReadResponseFormat();
    ReadForms(body_, "guided_", "");
    const auto outputs = body_.find("structured_outputs");
    if (fields_.Has("structured_outputs") && outputs != body_.end()) {
      if (!outputs->is_object()) return fields_.Fail("structured_outputs", "must be an object");
      ReadForms(*outputs, "", "structured_outputs.");
      RefuseOthers(*outputs);
    }
  }

 private:
  // A form that is not known must not be left out without a word.
  void RefuseOthers(const Json& outputs) {
    static const std::set<std::string> kKnown = {"json", "json_object", "regex", "choice",
                                                 "grammar"};
    for (const auto& [name, value] : outputs.items()) {
      if (kKnown.contains(name) || value.is_null() || value == false) continue;
      fields_.Fail("structured_outputs." + name, "is not supported by this server");
    }
  }

  void Set(StructuredSpec::Kind kind, const std::string& param) {
    if (spec_.kind != StructuredSpec::Kind::kAny) {
      return fields_.Fail(param, "must not be given together with '" + spec_.param + "'");
    }
    spec_.kind = kind;
    spec_.param = param;
  }

  void ReadResponseFormat() {
    if (!fields_.Has("response_format")) return;
    const Json& format = body_["response_format"];
    if (!format.is_object() || !format.contains("type") || !format["type"].is_string()) {
      return fields_.Fail("response_format", "must be an object with a 'type'");
    }
    const auto& type = format["type"].get_ref<const std::string&>();
    if (type == "text") return;
    if (type == "json_object") return Set(StructuredSpec::Kind::kJsonObject, "response_format");
    if (type != "json_schema") {
      return fields_.Fail("response_format.type", "must be text, json_object or json_schema");
    }
    const auto outer = format.find("json_schema");
    if (outer == format.end() || !outer->is_object() || !outer->contains("schema")) {
      return fields_.Fail("response_format.json_schema", "must be an object with a 'schema'");
    }
    Set(StructuredSpec::Kind::kJsonSchema, "response_format.json_schema.schema");
    spec_.schema = (*outer)["schema"];
  }

  void ReadForms(const Json& object, const std::string& prefix, const std::string& path) {
    const auto find = [&](const char* name) -> const Json* {
      const std::string field = prefix + name;
      if (path.empty()) fields_.Has(field.c_str());
      const auto it = object.find(field);
      return it == object.end() || it->is_null() ? nullptr : &*it;
    };
    const auto param = [&](const char* name) { return path + prefix + name; };
    if (const Json* schema = find("json")) ReadSchema(*schema, param("json"));
    if (const Json* any = find("json_object")) {
      if (!any->is_boolean()) return fields_.Fail(param("json_object"), "must be a boolean");
      if (*any == true) Set(StructuredSpec::Kind::kJsonObject, param("json_object"));
    }
    for (const char* name : {"regex", "grammar"}) {
      const Json* text = find(name);
      if (text == nullptr) continue;
      if (!text->is_string()) return fields_.Fail(param(name), "must be a string");
      Set(std::string_view(name) == "regex" ? StructuredSpec::Kind::kRegex
                                            : StructuredSpec::Kind::kGrammar,
          param(name));
      spec_.text = text->get<std::string>();
    }
    if (const Json* choices = find("choice")) ReadChoices(*choices, param("choice"));
  }

  void ReadSchema(const Json& value, const std::string& param) {
    Set(StructuredSpec::Kind::kJsonSchema, param);
    spec_.schema = value;
    if (!value.is_string()) return;
    const Result<Json> parsed = ParseOrdered(value.get_ref<const std::string&>());
    if (!parsed) return fields_.Fail(param, "is a string that is no JSON schema");
    spec_.schema = *parsed;
  }

  void ReadChoices(const Json& value, const std::string& param) {
    Set(StructuredSpec::Kind::kChoice, param);
    if (!value.is_array() || value.empty() || value.size() > kMaxChoices) {
      return fields_.Fail(param,
                          "must be an array of 1 to " + std::to_string(kMaxChoices) + " strings");
    }
    for (size_t i = 0; i < value.size(); ++i) {
      if (!value[i].is_string() || value[i].get_ref<const std::string&>().empty()) {
        return fields_.Fail(param + "[" + std::to_string(i) + "]", "must be a non-empty string");
      }
      spec_.choices.push_back(value[i].get<std::string>());
    }
  }

  JsonFields& fields_;
  const Json& body_;
  StructuredSpec& spec_;
};

bool IsToolName(const std::string& name) {
  return !name.empty() && name.size() <= 128 && std::all_of(name.begin(), name.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.' ||
           c == ':' || c == '/';
  });
}

// One entry of tools; false after a failure.
bool ReadTool(const Json& value, const std::string& path, JsonFields* fields, Tool* tool) {
  const auto fail = [&](const std::string& where, const char* what) {
    fields->Fail(path + where, what);
    return false;
  };
  if (!value.is_object() || value.value("type", Json()) != "function") {
    return fail(".type", "must be 'function'");
  }
  const auto function = value.find("function");
  if (function == value.end() || !function->is_object()) {
    return fail(".function", "is required and must be an object");
  }
  const auto name = function->find("name");
  if (name == function->end() || !name->is_string() || !IsToolName(name->get<std::string>())) {
    return fail(".function.name", "is required: 1 to 128 letters, digits or any of _-.:/");
  }
  tool->name = name->get<std::string>();
  tool->path = path + ".function.parameters";
  const auto parameters = function->find("parameters");
  tool->parameters = Json{{"type", "object"}};
  if (parameters == function->end() || parameters->is_null()) return true;
  if (!parameters->is_object()) return fail(".function.parameters", "must be a schema object");
  // Some clients send {} for no parameters.
  if (!parameters->empty()) tool->parameters = *parameters;
  return true;
}

// Leaves in request only the tool that the choice names.
void ApplyChoice(const Json& choice, JsonFields* fields, ToolRequest* request, bool* none) {
  if (choice.is_string()) {
    const auto& text = choice.get_ref<const std::string&>();
    *none = text == "none";
    request->forced = text == "required";
    if (!*none && !request->forced && text != "auto") {
      fields->Fail("tool_choice", "must be none, auto, required or an object that names a tool");
    }
    return;
  }
  const auto function = choice.is_object() ? choice.find("function") : choice.end();
  const bool named = choice.is_object() && choice.value("type", Json()) == "function" &&
                     function != choice.end() && function->is_object() &&
                     function->contains("name");
  if (!named) {
    return fields->Fail("tool_choice",
                        "must be none, auto, required or {\"type\": \"function\", \"function\": "
                        "{\"name\": …}}");
  }
  const Json& name = (*function)["name"];
  std::erase_if(request->tools, [&](const Tool& tool) { return name != tool.name; });
  if (request->tools.empty()) {
    return fields->Fail("tool_choice.function.name", "is none of the 'tools'");
  }
  request->forced = true;
  request->parallel = false;
}

}  // namespace

Result<nlohmann::ordered_json> ParseOrdered(std::string_view text) {
  const Result<nlohmann::json> plain = ParseJson(text);
  if (!plain) return tl::unexpected(plain.error());
  if (HasLargeObject(*plain)) {
    return tl::unexpected(
        InvalidArgument("An object has more than " + std::to_string(kMaxOrderedKeys) + " keys"));
  }
  return nlohmann::ordered_json::parse(text.begin(), text.end());
}

void ReadStructured(JsonFields* fields, std::string_view body, GenerationSpec* spec) {
  bool any = false;
  for (const char* name : {"response_format", "structured_outputs", "guided_json", "guided_regex",
                           "guided_choice", "guided_grammar", "guided_json_object"}) {
    any |= fields->Has(name);
  }
  if (!any) return;
  const Result<Json> ordered = ParseOrdered(body);
  if (!ordered) return fields->Fail("response_format", "has an object with too many keys");
  auto form = std::make_shared<StructuredSpec>();
  FormReader(fields, *ordered, form.get()).Run();
  if (form->kind != StructuredSpec::Kind::kAny) spec->structured = std::move(form);
}

void RefuseTools(JsonFields* fields) {
  const nlohmann::json* tools = fields->Get("tools");
  if (tools != nullptr && !tools->empty()) {
    fields->Fail("tools", "is only supported by /v1/chat/completions");
  }
  const nlohmann::json* choice = fields->Get("tool_choice");
  if (choice != nullptr && *choice != "none" && *choice != "auto") {
    fields->Fail("tool_choice", "is only supported by /v1/chat/completions");
  }
  bool parallel = true;
  fields->Bool("parallel_tool_calls", &parallel);
}

void ReadTools(JsonFields* fields, std::string_view body, ChatRequest* request) {
  ToolRequest tools;
  fields->Bool("parallel_tool_calls", &tools.parallel);
  const nlohmann::json* given = fields->Get("tools");
  const bool chosen = fields->Has("tool_choice");
  if (given == nullptr || (given->is_array() && given->empty())) {
    const nlohmann::json* choice = fields->Get("tool_choice");
    if (chosen && *choice != "none" && *choice != "auto") {
      fields->Fail("tool_choice", "needs 'tools'");
    }
    return;
  }
  if (!given->is_array() || given->size() > kMaxTools) {
    return fields->Fail("tools", "must be an array of at most " + std::to_string(kMaxTools));
  }
  const Result<Json> ordered = ParseOrdered(body);
  if (!ordered) return fields->Fail("tools", "has an object with too many keys");
  const Json& list = (*ordered)["tools"];
  std::set<std::string> names;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string path = "tools[" + std::to_string(i) + "]";
    Tool tool;
    if (!ReadTool(list[i], path, fields, &tool)) return;
    if (!names.insert(tool.name).second) {
      return fields->Fail(path + ".function.name", "is the name of an earlier tool");
    }
    tools.tools.push_back(std::move(tool));
  }
  bool none = false;
  if (chosen) ApplyChoice((*ordered)["tool_choice"], fields, &tools, &none);
  if (!fields->status().ok()) return;
  request->chat.tools = list;
  if (none) return;
  request->options.tools = std::make_shared<const ToolRequest>(tools);
  // Marks of calls may be special tokens.
  request->spec.skip_special_tokens = false;
  const auto& asked = request->spec.structured;
  if (asked == nullptr && !tools.forced) return;
  auto form = asked == nullptr ? std::make_shared<StructuredSpec>()
                               : std::make_shared<StructuredSpec>(*asked);
  if (form->param.empty()) form->param = "tools";
  form->tools = std::move(tools);
  request->spec.structured = std::move(form);
}

}  // namespace palu
