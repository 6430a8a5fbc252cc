// Tokens that are cut out of the text before anything else sees it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "server/text/normalizer.h"
#include "server/text/pre_tokenizer.h"

namespace palu {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool single_word = false;  // only between characters that are no word characters
  bool lstrip = false;       // takes the white space on its left with it
  bool rstrip = false;
  bool normalized = true;  // sought in normalized text, else in the text as it came
  bool special = false;
};

// An entry of added_tokens, id by its own "id" key or given. Throws LoadError.
AddedToken ReadAddedToken(const JsonReader& spec, int32_t id = -1);

// Immutable once the last token is in; then thread-safe.
class AddedVocabulary {
 public:
  // Text between added tokens (id < 0, piece not empty), or one of them.
  struct Part {
    int32_t id = -1;
    TextPiece piece;
  };

  // normalizer: of the tokens that are sought in normalized text; may be nullptr.
  void Add(AddedToken token, const Normalizer* normalizer);

  // Cuts, and normalizes what is between. text: valid UTF-8.
  std::vector<Part> Split(std::string_view text, const Normalizer* normalizer) const;

  const AddedToken* Find(int32_t id) const;  // nullptr: not an added token
  int32_t Find(std::string_view content) const;
  const std::unordered_map<int32_t, AddedToken>& tokens() const { return tokens_; }

 private:
  // A byte trie; the longest token that starts at a place is the one that counts.
  class Trie {
   public:
    void Insert(std::string_view text, int32_t id);
    // The id of the longest match at text[pos..], its length; -1 where there is none.
    int32_t LongestMatch(std::string_view text, size_t pos, size_t* length) const;
    bool empty() const { return nodes_.size() == 1; }

   private:
    struct Node {
      std::map<char, int32_t> next;
      int32_t id = -1;
    };
    std::vector<Node> nodes_{1};
  };

  void Cut(const Trie& trie, const TextPiece& piece, std::vector<Part>* parts) const;

  std::unordered_map<int32_t, AddedToken> tokens_;
  std::unordered_map<std::string, int32_t> ids_;
  Trie raw_;
  Trie normalized_;
};

}  // namespace palu
