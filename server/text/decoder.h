// Decoders of tokenizer.json: tokens back to text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/text/json_reader.h"
#include "server/text/utf8.h"

namespace palu {

// What is left to do on the text of a whole sequence once every token has become bytes.
struct DecodeRules {
  Utf8Repair repair = Utf8Repair::kPerPrefix;
  std::string separator;      // between tokens
  std::string strip_content;  // one code point, taken off the ends of the text
  int strip_start = 0;        // at most so many
  int strip_stop = 0;
  std::string first_drops;  // the first token loses every occurrence of it (and nothing else does)
};

// Turns single tokens into bytes. Immutable; thread-safe.
//
// Runs of byte tokens (<0x..>) follow sentencepiece: whole code points stand, every other byte is
// one U+FFFD. (Hugging Face replaces all bytes of a run that has one bad byte in it, which cannot
// be streamed.)
class Decoder {
 public:
  virtual ~Decoder() = default;
  // In the middle of a sequence; the bytes may be part of a code point.
  virtual std::string TokenBytes(std::string_view token) const = 0;

  const DecodeRules& rules() const { return rules_; }

 protected:
  DecodeRules rules_;
};

// spec: the file's "decoder"; null: tokens stand as they are with a space between them. Throws
// LoadError.
std::unique_ptr<Decoder> MakeDecoder(const JsonReader& spec);

// Applies the rules to bytes as they come. Held back: an unfinished code point, and what may still
// be stripped at the end. One thread at a time.
class RuledText {
 public:
  explicit RuledText(const DecodeRules& rules) : rules_(&rules), utf8_(rules.repair) {}

  void Push(std::string bytes, std::string* out);
  void Finish(std::string* out);

 private:
  void Pass(std::string_view text, std::string* out);

  const DecodeRules* rules_;
  Utf8Stream utf8_;
  bool first_ = true;
  int stripped_ = 0;  // at the start; -1: done there
  int held_ = 0;      // strip_content characters at the end, not yet passed on
};

}  // namespace palu
