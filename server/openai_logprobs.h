// The three shapes of log-probabilities on the wire.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/request.h"
#include "server/text/tokenizer.h"

namespace palu {

bool IsValidUtf8(std::string_view text);

// Bytes of a token; of a special token its name.
std::string TokenPiece(const Tokenizer& tokenizer, int32_t id);
// The piece itself, or "bytes:\xe2\x80" when it is no whole text: unlike U+FFFD that tells tokens
// apart, which the legacy format needs for its keys.
std::string LegacyTokenString(const Tokenizer& tokenizer, int32_t id);

// Chat: {"content": [{token, logprob, bytes, top_logprobs}]}.
nlohmann::ordered_json ChatLogprobsJson(const std::vector<OutputToken>& tokens, int num_top,
                                        const Tokenizer& tokenizer);

// vLLM's prompt_logprobs: [null, {"id": {logprob, rank, decoded_token}}, …].
nlohmann::ordered_json PromptLogprobsJson(const std::vector<OutputToken>& tokens, int num_top,
                                          const Tokenizer& tokenizer);

// Legacy completions: tokens, token_logprobs, top_logprobs, text_offset. Keeps the offset between
// chunks of one choice. Used by one thread at a time.
class LegacyLogprobs {
 public:
  // The prompt, with echo; scored are its tokens from the second on.
  void AddPrompt(const std::vector<int32_t>& ids, const std::vector<OutputToken>& scored,
                 int num_top, bool skip_special, const Tokenizer& tokenizer);
  void Add(const std::vector<OutputToken>& tokens, int num_top, bool skip_special,
           const Tokenizer& tokenizer);
  // What was added since the last Take.
  nlohmann::ordered_json Take();

 private:
  void AddToken(int32_t id, bool skip_special, const Tokenizer& tokenizer);
  void AddScore(const OutputToken& token, int num_top, const Tokenizer& tokenizer);

  nlohmann::ordered_json tokens_ = nlohmann::ordered_json::array();
  nlohmann::ordered_json logprobs_ = nlohmann::ordered_json::array();
  nlohmann::ordered_json top_ = nlohmann::ordered_json::array();
  nlohmann::ordered_json offsets_ = nlohmann::ordered_json::array();
  int64_t offset_ = 0;  // code points
};

}  // namespace palu
