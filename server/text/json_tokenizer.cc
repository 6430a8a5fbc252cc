#include "server/text/json_tokenizer.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace palu {

class JsonTokenizer::Stream : public DecodeStream {
 public:
  Stream(const JsonTokenizer& tokenizer, bool skip_special)
      : tokenizer_(tokenizer), skip_special_(skip_special), text_(tokenizer.decoder_->rules()) {}

  void Push(int32_t id, std::string* out) override {
    if (!tokenizer_.Known(id) || (skip_special_ && tokenizer_.is_special(id))) return;
    text_.Push(tokenizer_.bytes_[static_cast<size_t>(id)], out);
  }
  void Finish(std::string* out) override { text_.Finish(out); }

 private:
  const JsonTokenizer& tokenizer_;
  bool skip_special_;
  RuledText text_;
};

JsonTokenizer::JsonTokenizer(const JsonReader& tokenizer, const JsonReader& config)
    : model_(tokenizer.At("model").Object()) {
  static const nlohmann::json kNull;
  const auto part = [&](const char* key) {
    return tokenizer.Has(key) ? tokenizer.At(key) : JsonReader(kNull, tokenizer.file(), key);
  };
  normalizer_ = MakeNormalizer(part("normalizer"));
  pre_tokenizer_ = MakePreTokenizer(part("pre_tokenizer"));
  decoder_ = MakeDecoder(part("decoder"));
  ReadAddedTokens(tokenizer, config);

  size_t count = model_.names().size();
  for (const auto& [id, token] : added_.tokens())
    count = std::max(count, static_cast<size_t>(id) + 1);
  if (count == 0) tokenizer.At("model").At("vocab").Fail("no token", "at least one");
  bytes_.resize(count);
  for (size_t id = 0; id < count; ++id) {
    const std::string name = TokenName(static_cast<int32_t>(id));
    if (!name.empty()) bytes_[id] = decoder_->TokenBytes(name);
  }
  post_processor_ = ReadPostProcessor(part("post_processor"), vocab_size());
  if (!config.is_null()) {
    ApplyTokenizerConfig(
        config, [this](const std::string& token) { return TokenId(token); }, &post_processor_);
  }
}

void JsonTokenizer::Add(const JsonReader& spec, AddedToken token) {
  const int32_t known = model_.Find(token.content);
  const bool taken = static_cast<size_t>(token.id) < model_.names().size() &&
                     !model_.names()[static_cast<size_t>(token.id)].empty();
  const int32_t added = added_.Find(token.content);
  const AddedToken* same_id = added_.Find(token.id);
  if ((known >= 0 && known != token.id) || (known < 0 && taken) ||
      (added >= 0 && added != token.id) ||
      (same_id != nullptr && same_id->content != token.content)) {
    spec.Fail("token \"" + token.content + "\" with id " + std::to_string(token.id),
              "an id of its own, the vocabulary's where it has the token");
  }
  added_.Add(std::move(token), normalizer_.get());
}

void JsonTokenizer::ReadAddedTokens(const JsonReader& tokenizer, const JsonReader& config) {
  if (tokenizer.Has("added_tokens")) {
    const JsonReader list = tokenizer.At("added_tokens").Array();
    for (size_t i = 0; i < list.size(); ++i) Add(list.At(i), ReadAddedToken(list.At(i)));
  }
  if (config.is_null() || !config.Has("added_tokens_decoder")) return;
  const JsonReader more = config.At("added_tokens_decoder").Object();
  for (const auto& [key, value] : more.value().items()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || *end != '\0' || id < 0 || id > kMaxTokenId) {
      more.Fail("key \"" + key + "\"", "a token id");
    }
    const JsonReader spec = more.At(key.c_str());
    AddedToken token = ReadAddedToken(spec, id);
    if (added_.Find(token.content) < 0) Add(spec, std::move(token));
  }
}

std::vector<int32_t> JsonTokenizer::Encode(std::string_view text, bool add_special) const {
  std::vector<int32_t> ids;
  std::vector<TextPiece> pieces;
  for (AddedVocabulary::Part& part : added_.Split(ReplaceInvalidUtf8(text), normalizer_.get())) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    pieces.clear();
    pieces.push_back(std::move(part.piece));
    if (pre_tokenizer_ != nullptr) pre_tokenizer_->Apply(&pieces);
    for (const TextPiece& piece : pieces) model_.Encode(piece.text, &ids);
  }
  return add_special ? post_processor_.Apply(std::move(ids)) : ids;
}

std::string JsonTokenizer::Decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string text;
  Stream stream(*this, skip_special);
  for (const int32_t id : ids) stream.Push(id, &text);
  stream.Finish(&text);
  return text;
}

std::unique_ptr<DecodeStream> JsonTokenizer::NewDecodeStream(bool skip_special) const {
  return std::make_unique<Stream>(*this, skip_special);
}

bool JsonTokenizer::Known(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < bytes_.size() && !TokenName(id).empty();
}

std::string JsonTokenizer::TokenBytes(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < bytes_.size() ? bytes_[static_cast<size_t>(id)] : "";
}

bool JsonTokenizer::strips_leading_space() const {
  const DecodeRules& rules = decoder_->rules();
  return !rules.first_drops.empty() || (rules.strip_start > 0 && rules.strip_content == " ");
}

bool JsonTokenizer::is_special(int32_t id) const {
  const AddedToken* token = added_.Find(id);
  return token != nullptr && token->special;
}

int32_t JsonTokenizer::TokenId(std::string_view content) const {
  const int32_t id = added_.Find(content);
  return id >= 0 ? id : model_.Find(content);
}

std::string JsonTokenizer::TokenName(int32_t id) const {
  if (const AddedToken* token = added_.Find(id)) return token->content;
  const auto& names = model_.names();
  return id >= 0 && static_cast<size_t>(id) < names.size() ? names[static_cast<size_t>(id)] : "";
}

}  // namespace palu
