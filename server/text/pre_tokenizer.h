// Pre-tokenizers of tokenizer.json: text into the pieces that are tokenized one by one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/text/json_reader.h"

namespace palu {

struct TextPiece {
  std::string text;
  bool at_start = false;  // begins where the whole input begins
};

// Immutable; thread-safe. Works on valid UTF-8; never leaves an empty piece.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void Apply(std::vector<TextPiece>* pieces) const = 0;
};

// spec: the file's "pre_tokenizer" object. nullptr for null. Throws LoadError.
std::unique_ptr<PreTokenizer> MakePreTokenizer(const JsonReader& spec);

}  // namespace palu
