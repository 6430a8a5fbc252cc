// tokenizer.model through libsentencepiece.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/text/added_vocabulary.h"
#include "server/text/post_processor.h"
#include "server/text/sentencepiece_model.h"
#include "server/text/tokenizer.h"

namespace palu {

// A sentencepiece model, with the special tokens of tokenizer_config.json where a checkpoint has
// one. Decoding is the library's own, made incremental. Immutable; thread-safe.
class SentencePieceTokenizer : public Tokenizer {
 public:
  // model: the file's bytes; config: tokenizer_config.json's document, or null: then control
  // symbols in the text are ordinary text. Throws LoadError.
  SentencePieceTokenizer(const std::string& model, const std::string& path,
                         const JsonReader& config);
  ~SentencePieceTokenizer() override;

  std::vector<int32_t> Encode(std::string_view text, bool add_special) const override;
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const override;
  std::string TokenBytes(int32_t id) const override;
  bool strips_leading_space() const override { return strip_ != Strip::kNone; }
  int vocab_size() const override { return vocab_size_; }
  bool is_special(int32_t id) const override;
  int32_t TokenId(std::string_view content) const override;
  std::string TokenName(int32_t id) const override;
  std::unique_ptr<DecodeStream> NewDecodeStream(bool skip_special) const override;

 private:
  enum class Kind { kText, kByte, kControl, kUnknown, kAdded, kNone };
  enum class Strip { kNone, kOne, kAll };  // leading spaces of a sequence
  class Stream;

  Kind KindOf(int32_t id) const;
  void AddTokens(const JsonReader& config);
  Strip ProbeStrip() const;

  std::unique_ptr<SentencePieceModel> processor_;
  // Without the space that sentencepiece puts before text; for text behind a special token, where
  // the checkpoint says "legacy": false.
  std::unique_ptr<SentencePieceModel> continuation_;
  AddedVocabulary added_;
  PostProcessor post_processor_;
  int pieces_ = 0;
  int vocab_size_ = 0;
  Strip strip_ = Strip::kNone;
};

}  // namespace palu
