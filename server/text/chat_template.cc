#include "server/text/chat_template.h"

#include <filesystem>
#include <utility>

#include "server/text/continue_message.h"
#include "server/text/jinja/template.h"
#include "server/text/json_reader.h"
#include "server/text/post_processor.h"

namespace palu {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* kDefaultName = "default";
constexpr const char* kToolName = "tool_use";

// What Hugging Face passes to templates out of tokenizer_config.json.
std::map<std::string, std::string> SpecialTokens(const JsonReader& config) {
  std::map<std::string, std::string> tokens;
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                          "cls_token", "mask_token"}) {
    if (config.Has(key)) tokens[key] = SpecialTokenContent(config, key);
  }
  return tokens;
}

Status RenderError(const jinja::Error& error) {
  const bool raised = error.kind == "TemplateError";
  return InvalidArgument(raised ? error.message
                                : "chat template, line " + std::to_string(error.line) + ": " +
                                      error.kind + ": " + error.message,
                         "messages");
}

}  // namespace

ChatTemplate::ChatTemplate() = default;
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

void ChatTemplate::Add(const std::string& name, const std::string& source,
                       const std::string& file) {
  try {
    templates_[name] = std::make_unique<const jinja::Template>(source);
  } catch (const jinja::Error& error) {
    throw LoadError(file + ": chat template \"" + name + "\", line " + std::to_string(error.line) +
                    ": " + error.message);
  }
  if (source_.empty() || name == kDefaultName) source_ = source;
}

// A template's source, or a list of {name, template}.
void ChatTemplate::AddAll(const JsonReader& spec) {
  if (!spec.value().is_array()) return Add(kDefaultName, spec.String(), spec.file());
  for (size_t i = 0; i < spec.size(); ++i) {
    Add(spec.At(i).String("name"), spec.At(i).String("template"), spec.file());
  }
}

std::unique_ptr<ChatTemplate> ChatTemplate::Load(const std::string& directory,
                                                 const std::string& override_path) {
  std::unique_ptr<ChatTemplate> loaded(new ChatTemplate);
  const std::string config_path = (fs::path(directory) / "tokenizer_config.json").string();
  nlohmann::json config;
  if (fs::exists(config_path)) config = ReadJsonFile(config_path);
  const JsonReader config_reader(config, config_path);
  if (!config.is_null()) loaded->special_tokens_ = SpecialTokens(config_reader.Object());

  const std::string jinja_path = (fs::path(directory) / "chat_template.jinja").string();
  const std::string json_path = (fs::path(directory) / "chat_template.json").string();
  if (!override_path.empty()) {
    loaded->Add(kDefaultName, ReadTextFile(override_path), override_path);
  } else if (fs::exists(jinja_path)) {
    loaded->Add(kDefaultName, ReadTextFile(jinja_path), jinja_path);
  } else if (fs::exists(json_path)) {
    const nlohmann::json document = ReadJsonFile(json_path);
    loaded->AddAll(JsonReader(document, json_path).At("chat_template"));
  } else if (config_reader.Has("chat_template")) {
    loaded->AddAll(config_reader.At("chat_template"));
  }
  if (loaded->templates_.empty()) return nullptr;
  return loaded;
}

std::unique_ptr<ChatTemplate> ChatTemplate::Parse(
    const std::string& source, const std::string& name,
    std::map<std::string, std::string> special_tokens) {
  std::unique_ptr<ChatTemplate> parsed(new ChatTemplate);
  parsed->special_tokens_ = std::move(special_tokens);
  parsed->Add(kDefaultName, source, name);
  return parsed;
}

const jinja::Template& ChatTemplate::Choose(bool with_tools) const {
  const auto tools = templates_.find(kToolName);
  if (with_tools && tools != templates_.end()) return *tools->second;
  const auto plain = templates_.find(kDefaultName);
  return plain != templates_.end() ? *plain->second : *templates_.begin()->second;
}

Result<std::string> ChatTemplate::Render(const ChatTemplateInput& input) const {
  if (input.continue_final_message && input.add_generation_prompt) {
    return tl::unexpected(
        InvalidArgument("continue_final_message and add_generation_prompt exclude each other",
                        "continue_final_message"));
  }
  ordered_json variables = ordered_json::object();
  for (const auto& [key, token] : special_tokens_) variables[key] = token;
  variables["messages"] = input.messages;
  if (!input.tools.is_null()) variables["tools"] = input.tools;
  variables["add_generation_prompt"] = input.add_generation_prompt;
  if (input.kwargs.is_object()) variables.update(input.kwargs);

  const std::time_t now = input.now.value_or(std::time(nullptr));
  auto text = Choose(!input.tools.is_null()).Render(variables, now);
  if (!text) return tl::unexpected(RenderError(text.error()));
  if (!input.continue_final_message) return *std::move(text);
  return CutBehindLastMessage(*std::move(text), input.messages);
}

const std::string& ChatTemplate::source() const { return source_; }

}  // namespace palu
