#include "server/structured/vocabulary.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace palu::structured {
namespace {

constexpr size_t kMaxTokenBytes = 255;

std::vector<std::string> BytesOf(const Tokenizer& tokenizer) {
  std::vector<std::string> bytes(static_cast<size_t>(tokenizer.vocab_size()));
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    std::string& text = bytes[static_cast<size_t>(id)];
    text = tokenizer.is_special(id) ? kSpecialMark + tokenizer.TokenName(id)
                                    : tokenizer.TokenBytes(id);
  }
  return bytes;
}

}  // namespace

Vocabulary::Vocabulary(const Tokenizer& tokenizer)
    : Vocabulary(BytesOf(tokenizer), tokenizer.strips_leading_space()) {}

Vocabulary::Vocabulary(const std::vector<std::string>& bytes, bool strips_leading_space)
    : bytes_(bytes), strips_leading_space_(strips_leading_space) {
  Build();
}

void Vocabulary::Build() {
  for (std::string& bytes : bytes_) {
    // Longer ones never fit: no node could say how deep it lies.
    if (bytes.size() > kMaxTokenBytes) bytes.clear();
    max_token_bytes_ = std::max(max_token_bytes_, static_cast<int>(bytes.size()));
    if (!bytes.empty()) tokens_.push_back(static_cast<int32_t>(&bytes - bytes_.data()));
  }
  std::stable_sort(tokens_.begin(), tokens_.end(), [this](int32_t a, int32_t b) {
    return bytes_[static_cast<size_t>(a)] < bytes_[static_cast<size_t>(b)];
  });
  std::vector<int32_t> path = {0};  // nodes from the root to where the last token ended
  nodes_.emplace_back();
  std::string_view last;
  const auto leave = [&](size_t depth) {
    for (; path.size() > depth + 1; path.pop_back()) {
      nodes_[static_cast<size_t>(path.back())].end = static_cast<int32_t>(nodes_.size());
    }
  };
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const std::string& bytes = bytes_[static_cast<size_t>(tokens_[i])];
    const auto shared = static_cast<size_t>(
        std::mismatch(last.begin(), last.end(), bytes.begin(), bytes.end()).first - last.begin());
    leave(shared);
    for (size_t depth = shared; depth < bytes.size(); ++depth) {
      path.push_back(static_cast<int32_t>(nodes_.size()));
      Node node;
      node.byte = static_cast<uint8_t>(bytes[depth]);
      node.depth = static_cast<uint8_t>(depth + 1);
      node.tokens_begin = node.tokens_end = static_cast<int32_t>(i);
      nodes_.push_back(node);
    }
    nodes_[static_cast<size_t>(path.back())].tokens_end = static_cast<int32_t>(i + 1);
    last = bytes;
  }
  leave(0);
  nodes_[0].end = static_cast<int32_t>(nodes_.size());
}

bool Vocabulary::HasSpecial(std::string_view name) const {
  const std::string wanted = kSpecialMark + std::string(name);
  const auto it = std::lower_bound(tokens_.begin(), tokens_.end(), wanted,
                                   [this](int32_t token, const std::string& text) {
                                     return bytes_[static_cast<size_t>(token)] < text;
                                   });
  return it != tokens_.end() && bytes_[static_cast<size_t>(*it)] == wanted;
}

}  // namespace palu::structured
