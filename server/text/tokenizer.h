// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace palu {

// Decodes one sequence token by token. Everything appended, Finish() included, is together exactly
// what Tokenizer::Decode gives for all ids at once; what is appended is always whole UTF-8. Owned
// and used by one thread at a time; refers to the tokenizer that made it.
class DecodeStream {
 public:
  virtual ~DecodeStream() = default;

  virtual void Push(int32_t id, std::string* out) = 0;
  // No token follows: what was held back comes out, cut-off code points as U+FFFD.
  virtual void Finish(std::string* out) = 0;
};

// Immutable after loading; thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Special tokens that stand in the text (added tokens) are recognised. add_special: also what the
  // post-processor adds (bos, eos). Invalid UTF-8 is replaced by U+FFFD first.
  virtual std::vector<int32_t> Encode(std::string_view text, bool add_special) const = 0;
  // Text of a whole sequence; the decoder's rules applied (leading space stripped, …). Unknown ids
  // give nothing. Incomplete UTF-8 becomes U+FFFD.
  virtual std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const = 0;
  // Bytes that the token adds in the middle of a sequence (may be part of a code point).
  virtual std::string TokenBytes(int32_t id) const = 0;
  // True when the decoder strips one leading space from a sequence's text (sentencepiece style).
  virtual bool strips_leading_space() const = 0;

  virtual int vocab_size() const = 0;  // largest id + 1, added tokens included
  virtual bool is_special(int32_t id) const = 0;
  virtual int32_t TokenId(std::string_view content) const = 0;  // -1: no such token
  virtual std::string TokenName(int32_t id) const = 0;          // as in the vocabulary

  // Decodes incrementally. This one follows TokenBytes, is_special and strips_leading_space.
  virtual std::unique_ptr<DecodeStream> NewDecodeStream(bool skip_special) const;
};

// Reads tokenizer.json, else tokenizer.model (sentencepiece), of a checkpoint directory, with
// tokenizer_config.json beside it where there is one. Throws LoadError naming the file, what was
// found and what was expected.
std::unique_ptr<Tokenizer> LoadTokenizer(const std::string& directory);

// One of the two alone. config_path: a tokenizer_config.json; empty or missing file: none, which
// for sentencepiece means that control symbols in the text are text.
std::unique_ptr<Tokenizer> LoadJsonTokenizer(const std::string& path,
                                             const std::string& config_path);
std::unique_ptr<Tokenizer> LoadSentencePieceTokenizer(const std::string& path,
                                                      const std::string& config_path);

}  // namespace palu
