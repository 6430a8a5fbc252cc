// tokenizer.json: Hugging Face's format, for BPE models.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/text/added_vocabulary.h"
#include "server/text/bpe_model.h"
#include "server/text/decoder.h"
#include "server/text/post_processor.h"
#include "server/text/tokenizer.h"

namespace palu {

// Text → added tokens cut out → normalizer → pre-tokenizer → BPE → post-processor; ids → decoder.
// Immutable; thread-safe.
class JsonTokenizer : public Tokenizer {
 public:
  // tokenizer: the document; config: tokenizer_config.json's, or null. Throws LoadError.
  JsonTokenizer(const JsonReader& tokenizer, const JsonReader& config);

  std::vector<int32_t> Encode(std::string_view text, bool add_special) const override;
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const override;
  std::string TokenBytes(int32_t id) const override;
  bool strips_leading_space() const override;
  int vocab_size() const override { return static_cast<int>(bytes_.size()); }
  bool is_special(int32_t id) const override;
  int32_t TokenId(std::string_view content) const override;
  std::string TokenName(int32_t id) const override;
  std::unique_ptr<DecodeStream> NewDecodeStream(bool skip_special) const override;

 private:
  class Stream;

  void ReadAddedTokens(const JsonReader& tokenizer, const JsonReader& config);
  void Add(const JsonReader& spec, AddedToken token);
  bool Known(int32_t id) const;

  std::unique_ptr<Normalizer> normalizer_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  BpeModel model_;
  AddedVocabulary added_;
  PostProcessor post_processor_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<std::string> bytes_;  // by id: what each token decodes to
};

}  // namespace palu
