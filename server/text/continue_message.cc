#include "server/text/continue_message.h"

#include "server/text/jinja/text_functions.h"

namespace palu {
namespace {

// A message's text; of several parts the last text.
const std::string* ContentOf(const nlohmann::ordered_json& message) {
  const auto found = message.find("content");
  if (found == message.end()) return nullptr;
  if (found->is_string()) return found->get_ptr<const std::string*>();
  if (!found->is_array()) return nullptr;
  for (auto part = found->rbegin(); part != found->rend(); ++part) {
    if (!part->is_object()) continue;
    const auto text = part->find("text");
    if (text != part->end() && text->is_string()) return text->get_ptr<const std::string*>();
  }
  return nullptr;
}

}  // namespace

Result<std::string> CutBehindLastMessage(std::string rendered,
                                         const nlohmann::ordered_json& messages) {
  const bool listed = messages.is_array() && !messages.empty() && messages.back().is_object();
  const std::string* content = listed ? ContentOf(messages.back()) : nullptr;
  if (content == nullptr) {
    return tl::unexpected(InvalidArgument("continue_final_message needs a last message with text",
                                          "continue_final_message"));
  }
  using jinja::StripSide;
  const std::string bare = jinja::Strip(*content, StripSide::kBoth, {});
  const size_t at = rendered.rfind(bare);
  if (at == std::string::npos) {
    return tl::unexpected(InvalidArgument(
        "continue_final_message is set but the final message does not appear in the chat after "
        "applying the chat template",
        "continue_final_message"));
  }
  // Trailing white space of the content stays where the template kept it.
  const std::string kept = jinja::Strip(*content, StripSide::kLeft, {});
  const bool whole = rendered.compare(at, kept.size(), kept) == 0;
  rendered.resize(at + (whole ? kept.size() : bare.size()));
  return rendered;
}

}  // namespace palu
