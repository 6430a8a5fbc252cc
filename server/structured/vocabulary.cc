#include "server/structured/vocabulary.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

namespace palu::structured {
namespace {

constexpr size_t kMaxTokenBytes = 255;
// The few tokens beyond are not in the groups of plain text: strings of limited length take these
// groups as long as so many characters are left.
constexpr size_t kMaxPlainBytes = 32;
constexpr uint8_t kGroups = 3;

uint8_t GroupOf(const std::string& bytes) {
  ClassReader reader;
  TextClasses classes = 0;
  for (const char c : bytes) classes |= reader.Read(static_cast<uint8_t>(c));
  if (bytes.size() > kMaxPlainBytes || (classes & ~(kPlainAscii | kBeyondAscii)) != 0) return 2;
  return (classes & kBeyondAscii) != 0 ? 1 : 0;
}

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
  std::vector<uint8_t> group(bytes_.size());
  for (std::string& bytes : bytes_) {
    // Longer ones never fit: no node could say how deep it lies.
    if (bytes.size() > kMaxTokenBytes) bytes.clear();
    max_token_bytes_ = std::max(max_token_bytes_, static_cast<int>(bytes.size()));
    if (bytes.empty()) continue;
    const auto token = static_cast<int32_t>(&bytes - bytes_.data());
    tokens_.push_back(token);
    group[static_cast<size_t>(token)] = GroupOf(bytes);
  }
  std::stable_sort(tokens_.begin(), tokens_.end(), [&](int32_t a, int32_t b) {
    const auto i = static_cast<size_t>(a), j = static_cast<size_t>(b);
    return group[i] != group[j] ? group[i] < group[j] : bytes_[i] < bytes_[j];
  });
  nodes_.emplace_back();
  size_t begin = 0;
  for (uint8_t g = 0; g < kGroups; ++g) {
    size_t end = begin;
    while (end < tokens_.size() && group[static_cast<size_t>(tokens_[end])] == g) ++end;
    AddGroup(begin, end);
    begin = end;
  }
  nodes_[0].end = static_cast<int32_t>(nodes_.size());
  Node& last = nodes_.emplace_back();
  last.tokens_begin = static_cast<int32_t>(tokens_.size());
  DescribeNodes();
}

void Vocabulary::AddGroup(size_t begin, size_t end) {
  Group& group = groups_.emplace_back();
  group.begin = nodes_.size();
  group.words.resize(mask_words());
  std::vector<int32_t> path = {0};  // nodes from the root to where the last token ended
  std::string_view last;
  const auto leave = [&](size_t depth) {
    for (; path.size() > depth + 1; path.pop_back()) {
      nodes_[static_cast<size_t>(path.back())].end = static_cast<int32_t>(nodes_.size());
    }
  };
  for (size_t i = begin; i < end; ++i) {
    const int32_t token = tokens_[i];
    group.words[static_cast<size_t>(token) / 32] |= 1u << (token % 32);
    const std::string& bytes = bytes_[static_cast<size_t>(token)];
    const auto shared = static_cast<size_t>(
        std::mismatch(last.begin(), last.end(), bytes.begin(), bytes.end()).first - last.begin());
    leave(shared);
    for (size_t depth = shared; depth < bytes.size(); ++depth) {
      path.push_back(static_cast<int32_t>(nodes_.size()));
      Node node;
      node.byte = static_cast<uint8_t>(bytes[depth]);
      node.depth = static_cast<uint8_t>(depth + 1);
      node.tokens_begin = static_cast<int32_t>(i);
      nodes_.push_back(node);
    }
    last = bytes;
  }
  leave(0);
  group.end = nodes_.size();
}

void Vocabulary::DescribeNodes() {
  std::array<ClassReader, kMaxTokenBytes + 1> readers;
  std::array<size_t, kMaxTokenBytes + 1> path = {};
  std::vector<size_t> parents(nodes_.size());
  std::vector<TextClasses> own(nodes_.size());
  const auto num_nodes = static_cast<size_t>(nodes_[0].end);
  for (size_t i = 1; i < num_nodes; ++i) {
    const size_t depth = nodes_[i].depth;
    path[depth] = i;
    parents[i] = path[depth - 1];
    readers[depth] = readers[depth - 1];
    own[i] = readers[depth].Read(nodes_[i].byte);
  }
  auto group = groups_.rbegin();
  for (size_t i = num_nodes - 1; i > 0; --i) {
    while (i < group->begin) ++group;
    const TextClasses classes = nodes_[i].classes | own[i];
    const int height = nodes_[i].height + 1;
    Node& parent = nodes_[parents[i]];
    parent.classes |= classes;
    parent.height = static_cast<uint8_t>(std::max<int>(parent.height, height));
    group->classes |= classes;
    group->height = std::max(group->height, height);
  }
}

bool Vocabulary::HasSpecial(std::string_view name) const {
  const std::string wanted = kSpecialMark + std::string(name);
  const Group& rest = groups_.back();
  const std::span<const int32_t> tokens = TokensAt(rest.begin, rest.end);
  const auto it = std::lower_bound(tokens.begin(), tokens.end(), wanted,
                                   [this](int32_t token, const auto& text) {
                                     return bytes_[static_cast<size_t>(token)] < text;
                                   });
  return it != tokens.end() && bytes_[static_cast<size_t>(*it)] == wanted;
}

}  // namespace palu::structured
