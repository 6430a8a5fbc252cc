#include "server/text/added_vocabulary.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <utility>

#include "server/text/bpe_model.h"
#include "server/text/utf8.h"

namespace palu {
namespace {

bool IsWord(char32_t code_point) {
  const auto c = static_cast<UChar32>(code_point);
  return u_hasBinaryProperty(c, UCHAR_ALPHABETIC) || u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL) ||
         (U_MASK(u_charType(c)) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

// Where the code point that ends at end begins.
size_t PreviousStart(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

bool WordBefore(std::string_view text, size_t at) {
  if (at == 0) return false;
  size_t pos = PreviousStart(text, at);
  return IsWord(NextCodePoint(text, &pos));
}

bool WordAfter(std::string_view text, size_t at) {
  return at < text.size() && IsWord(NextCodePoint(text, &at));
}

size_t SpaceStart(std::string_view text, size_t end) {
  while (end > 0) {
    const size_t begin = PreviousStart(text, end);
    size_t pos = begin;
    if (!IsWhitespace(NextCodePoint(text, &pos))) break;
    end = begin;
  }
  return end;
}

size_t SpaceEnd(std::string_view text, size_t begin) {
  while (begin < text.size()) {
    size_t pos = begin;
    if (!IsWhitespace(NextCodePoint(text, &pos))) break;
    begin = pos;
  }
  return begin;
}

}  // namespace

AddedToken ReadAddedToken(const JsonReader& spec, int32_t id) {
  AddedToken token;
  token.id = id >= 0 ? id : static_cast<int32_t>(spec.At("id").Int(0, kMaxTokenId));
  token.content = spec.String("content");
  if (token.content.empty()) spec.At("content").FailValue("text");
  token.single_word = spec.BoolOr("single_word", false);
  token.lstrip = spec.BoolOr("lstrip", false);
  token.rstrip = spec.BoolOr("rstrip", false);
  token.special = spec.BoolOr("special", false);
  token.normalized = spec.BoolOr("normalized", !token.special);
  return token;
}

void AddedVocabulary::Trie::Insert(std::string_view text, int32_t id) {
  size_t node = 0;
  for (const char c : text) {
    const auto [edge, fresh] = nodes_[node].next.emplace(c, static_cast<int32_t>(nodes_.size()));
    node = static_cast<size_t>(edge->second);
    if (fresh) nodes_.emplace_back();
  }
  nodes_[node].id = id;
}

int32_t AddedVocabulary::Trie::LongestMatch(std::string_view text, size_t pos,
                                            size_t* length) const {
  int32_t best = -1;
  size_t node = 0;
  for (size_t i = pos; i < text.size(); ++i) {
    const auto edge = nodes_[node].next.find(text[i]);
    if (edge == nodes_[node].next.end()) break;
    node = static_cast<size_t>(edge->second);
    if (nodes_[node].id < 0) continue;
    best = nodes_[node].id;
    *length = i + 1 - pos;
  }
  return best;
}

void AddedVocabulary::Add(AddedToken token, const Normalizer* normalizer) {
  std::string sought = token.content;
  if (token.normalized && normalizer != nullptr) normalizer->Apply(&sought);
  if (!sought.empty()) (token.normalized ? normalized_ : raw_).Insert(sought, token.id);
  ids_[token.content] = token.id;
  tokens_[token.id] = std::move(token);
}

std::vector<AddedVocabulary::Part> AddedVocabulary::Split(std::string_view text,
                                                          const Normalizer* normalizer) const {
  std::vector<Part> raw;
  Cut(raw_, {std::string(text), true}, &raw);
  std::vector<Part> parts;
  for (Part& part : raw) {
    if (part.id >= 0) {
      parts.push_back(std::move(part));
      continue;
    }
    if (normalizer != nullptr) normalizer->Apply(&part.piece.text);
    Cut(normalized_, part.piece, &parts);
  }
  return parts;
}

void AddedVocabulary::Cut(const Trie& trie, const TextPiece& piece,
                          std::vector<Part>* parts) const {
  const std::string_view text = piece.text;
  size_t done = 0;
  const auto emit = [&](size_t begin, size_t end) {
    if (begin < end) {
      parts->push_back(
          {-1, {std::string(text.substr(begin, end - begin)), piece.at_start && begin == 0}});
    }
  };
  for (size_t pos = 0; pos < text.size() && !trie.empty();) {
    size_t length = 0;
    const int32_t id = trie.LongestMatch(text, pos, &length);
    if (id < 0) {
      ++pos;
      continue;
    }
    const AddedToken& token = tokens_.at(id);
    size_t begin = pos;
    size_t end = pos + length;
    pos = end;
    if (token.single_word && (WordBefore(text, begin) || WordAfter(text, end))) continue;
    if (token.lstrip) begin = std::max(SpaceStart(text, begin), done);
    if (token.rstrip) end = SpaceEnd(text, end);
    emit(done, begin);
    parts->push_back({id, {}});
    done = std::max(done, end);
  }
  emit(done, text.size());
}

const AddedToken* AddedVocabulary::Find(int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : &found->second;
}

int32_t AddedVocabulary::Find(std::string_view content) const {
  const auto found = ids_.find(std::string(content));
  return found == ids_.end() ? -1 : found->second;
}

}  // namespace palu
