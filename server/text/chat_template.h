// Chat messages to the prompt text that a model was trained on, by its own Jinja template.
#pragma once

#include <ctime>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/status.h"

namespace palu {

namespace jinja {
class Template;
}  // namespace jinja
class JsonReader;

// What one rendering works on.
struct ChatTemplateInput {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  nlohmann::ordered_json tools;   // null: none; templates then see no such variable
  nlohmann::ordered_json kwargs;  // null or an object: further variables; they win over the others
  bool add_generation_prompt = true;
  // Cut the text right after the last message's content, so that the model goes on with it.
  bool continue_final_message = false;
  std::optional<std::time_t> now;  // for strftime_now (local time); the clock when empty
};

// A model's chat templates (mostly one; some have another for tool use), parsed once. Immutable;
// thread-safe. Rendering is bounded in steps, recursion and output size.
class ChatTemplate {
 public:
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // Looks in this order: override_path (when not empty, must exist), chat_template.jinja,
  // chat_template.json, tokenizer_config.json's chat_template (a string, or a list of {name,
  // template}). nullptr: the checkpoint has none. Special tokens (bos_token, …) come from
  // tokenizer_config.json. Throws LoadError: file, line, what is wrong.
  static std::unique_ptr<ChatTemplate> Load(const std::string& directory,
                                            const std::string& override_path = {});
  // From source text. Throws LoadError; name stands in messages.
  static std::unique_ptr<ChatTemplate> Parse(
      const std::string& source, const std::string& name,
      std::map<std::string, std::string> special_tokens = {});

  // kInvalidArgument: the template refuses the messages (raise_exception), or fails on them; the
  // message is the template's own, or says what failed and in which line.
  Result<std::string> Render(const ChatTemplateInput& input) const;

  const std::string& source() const;  // of the default template
  // Variables such as bos_token.
  const std::map<std::string, std::string>& special_tokens() const { return special_tokens_; }

 private:
  ChatTemplate();
  void Add(const std::string& name, const std::string& source, const std::string& file);
  void AddAll(const JsonReader& spec);
  const jinja::Template& Choose(bool with_tools) const;

  // "default", "tool_use", …
  std::map<std::string, std::unique_ptr<const jinja::Template>> templates_;
  std::map<std::string, std::string> special_tokens_;
  std::string source_;
};

}  // namespace palu
