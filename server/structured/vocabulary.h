// A tokenizer's vocabulary as a tree of bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/text/tokenizer.h"

namespace palu::structured {

// Begins the bytes of a special token wherever grammars and tokens meet. No text has this byte, so
// a special token fits only where a grammar asks for it, never into text.
inline constexpr char kSpecialMark = '\xFF';

// Every token's bytes, as a tree whose nodes lie in depth-first order: the nodes below node i are
// those from i + 1 up to end(i), so that a walk is a scan and leaving a branch out is a jump.
// Immutable; thread-safe.
class Vocabulary {
 public:
  struct Node {
    uint8_t byte = 0;
    uint8_t depth = 0;         // of the node, the root's is 0; tokens are cut off at 255 bytes
    int32_t end = 0;           // first node that is not below
    int32_t tokens_begin = 0;  // of the tokens that are spelled by the path to here
    int32_t tokens_end = 0;
  };

  explicit Vocabulary(const Tokenizer& tokenizer);
  // From the tokens' bytes; those that are empty never fit.
  Vocabulary(const std::vector<std::string>& bytes, bool strips_leading_space);

  int size() const { return static_cast<int>(bytes_.size()); }  // tokens
  size_t mask_words() const { return (bytes_.size() + 31) / 32; }
  const std::vector<Node>& nodes() const { return nodes_; }
  std::span<const int32_t> TokensAt(const Node& node) const {
    return std::span(tokens_).subspan(static_cast<size_t>(node.tokens_begin),
                                      static_cast<size_t>(node.tokens_end - node.tokens_begin));
  }
  const std::string& bytes(int32_t token) const { return bytes_[static_cast<size_t>(token)]; }
  int max_token_bytes() const { return max_token_bytes_; }
  // The first token of a text loses a space at its start.
  bool strips_leading_space() const { return strips_leading_space_; }
  // A special token of that name exists.
  bool HasSpecial(std::string_view name) const;

 private:
  void Build();

  std::vector<std::string> bytes_;
  bool strips_leading_space_ = false;
  int max_token_bytes_ = 0;
  std::vector<Node> nodes_;
  std::vector<int32_t> tokens_;  // sorted by bytes
};

}  // namespace palu::structured
