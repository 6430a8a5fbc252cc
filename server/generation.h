// What a client asks for, after its own protocol has been parsed and before the engine's terms:
// text instead of token ids, lists of prompts, limits that depend on the model still open.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/request.h"

namespace palu {

namespace structured {
struct StructuredSpec;
}  // namespace structured

using Prompt = std::variant<std::string, std::vector<int32_t>>;

struct GenerationSpec {
  std::string model;  // empty: the served one
  std::string request_id;
  std::vector<Prompt> prompts;
  bool add_special_tokens = true;             // text prompts only
  std::optional<int> truncate_prompt_tokens;  // keep the last so many; -1: as the context allows
  std::optional<int> max_tokens;              // absent: default_max_tokens
  std::optional<int> default_max_tokens;      // absent: to the end of the context
  SamplingParams sampling;                    // max_tokens is set by the mapper
  int n = 1;
  int priority = 0;
  std::string tenant;  // whose share it is charged to: the API key, or the request's user
  Pooling pooling = Pooling::kNone;  // if not: no generation, one vector per prompt
  std::shared_ptr<const structured::StructuredSpec> structured;  // null: text of any form
  std::vector<std::string> bad_words;
  std::string cache_salt;  // empty: none
  std::vector<std::string> stop;
  bool include_stop_str = false;
  bool skip_special_tokens = true;  // in the output
  std::optional<std::chrono::steady_clock::time_point> deadline;
};

}  // namespace palu
