// Tool calls of one choice as OpenAI's API shows them.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "server/structured/structured_spec.h"
#include "server/structured/tool_call_reader.h"

namespace palu {

// Turns a choice's text into messages: whole, or piece by piece. Used by one thread at a time.
class ToolCallMessage {
 public:
  ToolCallMessage(structured::ToolFormat format, const structured::ToolRequest& tools);

  // The next part of a stream: {"content": …} and {"tool_calls": […]} objects, in order.
  std::vector<nlohmann::ordered_json> Deltas(const std::string& text, bool last);
  // The message of a whole answer; nothing must have been asked for before.
  nlohmann::ordered_json Whole(const std::string& text);
  // Some call was begun.
  bool called() const { return reader_.calls() > 0; }

 private:
  std::string NewId() const;

  const structured::ToolFormat format_;
  structured::ToolCallReader reader_;
  int index_ = -1;  // of the call that is being written
};

}  // namespace palu
