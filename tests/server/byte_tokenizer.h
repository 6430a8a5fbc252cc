// A tokenizer whose tokens are bytes, so that code points come in pieces; 256 is <eos>.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/request.h"
#include "server/text/tokenizer.h"
#include "server/text/utf8.h"

namespace palu::testing {

class ByteTokenizer : public Tokenizer {
 public:
  static constexpr int32_t kEos = 256;

  std::vector<int32_t> Encode(std::string_view text, bool add_special) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    if (add_special) ids.push_back(kEos);
    return ids;
  }
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const override {
    std::string bytes;
    for (const int32_t id : ids) {
      if (!is_special(id) || !skip_special) bytes += TokenBytes(id);
    }
    return ReplaceInvalidUtf8(bytes);
  }
  std::string TokenBytes(int32_t id) const override {
    return id == kEos ? "<eos>" : std::string(1, static_cast<char>(id));
  }
  bool strips_leading_space() const override { return false; }
  int vocab_size() const override { return 257; }
  bool is_special(int32_t id) const override { return id == kEos; }
  int32_t TokenId(std::string_view content) const override {
    return content == "<eos>" ? kEos : -1;
  }
  std::string TokenName(int32_t id) const override { return TokenBytes(id); }
};

inline std::vector<OutputToken> Tokens(std::string_view text) {
  std::vector<OutputToken> tokens;
  for (const char c : text) {
    OutputToken token;
    token.token = static_cast<unsigned char>(c);
    token.logprob = -0.5f;
    token.rank = 1;
    token.top = {{token.token, -0.5f}, {'?', -1.5f}};
    tokens.push_back(token);
  }
  return tokens;
}

}  // namespace palu::testing
