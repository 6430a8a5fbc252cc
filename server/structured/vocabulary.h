// A tokenizer's vocabulary as a tree of bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/structured/text_classes.h"
#include "server/text/tokenizer.h"

namespace palu::structured {

// Begins the bytes of a special token wherever grammars and tokens meet. No text has this byte, so
// a special token fits only where a grammar asks for it, never into text.
inline constexpr char kSpecialMark = '\xFF';

// Every token's bytes, as a tree whose nodes lie in depth-first order: the nodes below node i are
// those from i + 1 up to end(i), so that a walk is a scan and leaving a branch out is a jump.
// Below the root come first the tokens of plain ASCII, then those of other plain text, then the
// rest, each group with a tree of its own, so that an automaton that reads any plain text need look
// at the rest only. Immutable; thread-safe.
class Vocabulary {
 public:
  struct Node {
    uint8_t byte = 0;
    uint8_t depth = 0;         // of the node, the root's is 0; tokens are cut off at 255 bytes
    uint8_t height = 0;        // bytes of the longest way on from here
    TextClasses classes = 0;   // of what is on all ways on from here
    int32_t end = 0;           // first node that is not below
    int32_t tokens_begin = 0;  // of the tokens that are spelled by the path to here
  };
  // Nodes right below the root and all below these.
  struct Group {
    size_t begin = 0, end = 0;
    int height = 0;
    TextClasses classes = 0;
    std::vector<uint32_t> words;  // a mask of its tokens
  };

  explicit Vocabulary(const Tokenizer& tokenizer);
  // From the tokens' bytes; those that are empty never fit.
  Vocabulary(const std::vector<std::string>& bytes, bool strips_leading_space);

  int size() const { return static_cast<int>(bytes_.size()); }  // tokens
  size_t mask_words() const { return (bytes_.size() + 31) / 32; }
  // One more than there are, where the last one's tokens end.
  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<Group>& groups() const { return groups_; }
  // Of the nodes from begin up to end.
  std::span<const int32_t> TokensAt(size_t begin, size_t end) const {
    const auto first = static_cast<size_t>(nodes_[begin].tokens_begin);
    return std::span(tokens_).subspan(first, static_cast<size_t>(nodes_[end].tokens_begin) - first);
  }
  const std::string& bytes(int32_t token) const { return bytes_[static_cast<size_t>(token)]; }
  int max_token_bytes() const { return max_token_bytes_; }
  // The first token of a text loses a space at its start.
  bool strips_leading_space() const { return strips_leading_space_; }
  // A special token of that name exists.
  bool HasSpecial(std::string_view name) const;

 private:
  void Build();
  // Appends the tree of tokens_[begin, end), which are sorted by bytes.
  void AddGroup(size_t begin, size_t end);
  void DescribeNodes();

  std::vector<std::string> bytes_;
  bool strips_leading_space_ = false;
  int max_token_bytes_ = 0;
  std::vector<Node> nodes_;
  std::vector<Group> groups_;
  std::vector<int32_t> tokens_;  // sorted by group and bytes
};

}  // namespace palu::structured
