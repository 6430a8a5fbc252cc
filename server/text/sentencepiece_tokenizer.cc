#include "server/text/sentencepiece_tokenizer.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "server/text/bpe_model.h"
#include "server/text/json_reader.h"
#include "server/text/utf8.h"

namespace palu {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";
constexpr std::string_view kUnknownSurface = " \xE2\x81\x87 ";  // the library's own

// A later value of a field wins in a serialized proto: normalizer_spec { add_dummy_prefix: false }.
constexpr std::string_view kNoDummyPrefix("\x1A\x02\x18\x00", 4);

std::unique_ptr<SentencePieceModel> Parse(const std::string& model, const std::string& path) {
  std::string reason;
  auto parsed = ParseSentencePieceModel(model, &reason);
  if (parsed == nullptr) {
    throw LoadError(path + ": found " + std::to_string(model.size()) +
                    " bytes that do not parse (" + reason + "), expected a sentencepiece model");
  }
  return parsed;
}

std::string WithSpaces(std::string_view piece) {
  std::string text;
  while (!piece.empty()) {
    const bool mark = piece.starts_with(kSpaceMark);
    text += mark ? ' ' : piece[0];
    piece.remove_prefix(mark ? kSpaceMark.size() : 1);
  }
  return text;
}

}  // namespace

class SentencePieceTokenizer::Stream : public DecodeStream {
 public:
  Stream(const SentencePieceTokenizer& tokenizer, bool skip_special)
      : tokenizer_(tokenizer), skip_special_(skip_special), utf8_(Utf8Repair::kPerByte) {}

  void Push(int32_t id, std::string* out) override {
    const Kind kind = tokenizer_.KindOf(id);
    if (kind == Kind::kNone || (skip_special_ && tokenizer_.is_special(id))) return;
    if (kind == Kind::kByte) {
      empty_ = false;
      return utf8_.Push(tokenizer_.TokenBytes(id), out);
    }
    utf8_.Finish(out);
    if (space_seen_ || !empty_) at_start_ = false;
    space_seen_ = false;
    std::string text = tokenizer_.TokenBytes(id);
    if (kind == Kind::kText && at_start_ && tokenizer_.strips_leading_space() &&
        text.starts_with(' ')) {
      text.erase(0, 1);
      space_seen_ = tokenizer_.strip_ == Strip::kOne;
    }
    if (!text.empty()) empty_ = false;
    *out += text;
  }
  void Finish(std::string* out) override { utf8_.Finish(out); }

 private:
  const SentencePieceTokenizer& tokenizer_;
  bool skip_special_;
  Utf8Stream utf8_;
  bool at_start_ = true;
  bool space_seen_ = false;
  bool empty_ = true;
};

SentencePieceTokenizer::SentencePieceTokenizer(const std::string& model, const std::string& path,
                                               const JsonReader& config)
    : processor_(Parse(model, path)), pieces_(processor_->size()) {
  vocab_size_ = pieces_;
  if (pieces_ == 0) throw LoadError(path + ": found no piece, expected at least one");
  if (processor_->bos_id() >= 0) post_processor_.prefix = {processor_->bos_id()};
  strip_ = ProbeStrip();
  if (config.is_null()) return;
  AddTokens(config);
  ApplyTokenizerConfig(
      config, [this](const std::string& token) { return TokenId(token); }, &post_processor_);
  if (!config.BoolOr("legacy", true))
    continuation_ = Parse(model + std::string(kNoDummyPrefix), path);
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

void SentencePieceTokenizer::AddTokens(const JsonReader& config) {
  for (int32_t id = 0; id < pieces_; ++id) {
    if (!processor_->IsControl(id) && !processor_->IsUnknown(id)) continue;
    AddedToken token{.id = id, .content = processor_->IdToPiece(id)};
    token.normalized = false;
    token.special = true;
    if (!token.content.empty()) added_.Add(std::move(token), nullptr);
  }
  if (!config.Has("added_tokens_decoder")) return;
  const JsonReader list = config.At("added_tokens_decoder").Object();
  for (const auto& [key, value] : list.value().items()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || *end != '\0' || id < 0 || id > kMaxTokenId) {
      list.Fail("key \"" + key + "\"", "a token id");
    }
    const JsonReader spec = list.At(key.c_str());
    AddedToken token = ReadAddedToken(spec, id);
    token.normalized = false;
    const int32_t known = TokenId(token.content);
    if ((known >= 0 && known != id) || (known < 0 && id < pieces_) ||
        (known < 0 && added_.Find(id) != nullptr)) {
      spec.Fail("token \"" + token.content + "\" with id " + key,
                "an id of its own, the model's where it has the piece");
    }
    vocab_size_ = std::max(vocab_size_, id + 1);
    added_.Add(std::move(token), nullptr);
  }
}

// The library does not tell its normalizer's settings; what it does with leading spaces shows them.
SentencePieceTokenizer::Strip SentencePieceTokenizer::ProbeStrip() const {
  for (int32_t id = 0; id < pieces_; ++id) {
    const std::string piece = processor_->IdToPiece(id);
    if (!piece.starts_with(kSpaceMark) || KindOf(id) != Kind::kText) continue;
    std::string once;
    std::string twice;
    if (!processor_->Decode({id}, &once) || once.size() == WithSpaces(piece).size()) {
      return Strip::kNone;
    }
    const int32_t mark = processor_->PieceToId(kSpaceMark);
    if (KindOf(mark) != Kind::kText || !processor_->Decode({mark, id}, &twice)) {
      return Strip::kOne;
    }
    return twice == once ? Strip::kAll : Strip::kOne;
  }
  return Strip::kOne;
}

SentencePieceTokenizer::Kind SentencePieceTokenizer::KindOf(int32_t id) const {
  if (id < 0 || id >= vocab_size_) return Kind::kNone;
  if (id >= pieces_) return added_.Find(id) != nullptr ? Kind::kAdded : Kind::kNone;
  if (processor_->IsByte(id)) return Kind::kByte;
  if (processor_->IsControl(id)) return Kind::kControl;
  return processor_->IsUnknown(id) ? Kind::kUnknown : Kind::kText;
}

std::vector<int32_t> SentencePieceTokenizer::Encode(std::string_view text, bool add_special) const {
  std::vector<int32_t> ids;
  bool first = true;
  for (const AddedVocabulary::Part& part : added_.Split(ReplaceInvalidUtf8(text), nullptr)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
    } else {
      const SentencePieceModel& processor = !first && continuation_ ? *continuation_ : *processor_;
      std::vector<int32_t> piece;
      if (processor.Encode(part.piece.text, &piece)) {
        ids.insert(ids.end(), piece.begin(), piece.end());
      }
    }
    first = false;
  }
  return add_special ? post_processor_.Apply(std::move(ids)) : ids;
}

std::string SentencePieceTokenizer::Decode(const std::vector<int32_t>& ids,
                                           bool skip_special) const {
  std::string text;
  Stream stream(*this, skip_special);
  for (const int32_t id : ids) stream.Push(id, &text);
  stream.Finish(&text);
  return text;
}

std::unique_ptr<DecodeStream> SentencePieceTokenizer::NewDecodeStream(bool skip_special) const {
  return std::make_unique<Stream>(*this, skip_special);
}

std::string SentencePieceTokenizer::TokenBytes(int32_t id) const {
  switch (KindOf(id)) {
    case Kind::kByte: {
      const std::string piece = processor_->IdToPiece(id);  // <0xAB>
      const std::string digits = piece.size() == 6 ? piece.substr(3, 2) : "";
      return std::string(1, static_cast<char>(std::strtol(digits.c_str(), nullptr, 16)));
    }
    case Kind::kText:
      return WithSpaces(processor_->IdToPiece(id));
    case Kind::kUnknown:
      return std::string(kUnknownSurface);
    case Kind::kControl:
    case Kind::kAdded:
      return TokenName(id);
    case Kind::kNone:
      break;
  }
  return {};
}

bool SentencePieceTokenizer::is_special(int32_t id) const {
  if (const AddedToken* token = added_.Find(id)) return token->special;
  const Kind kind = KindOf(id);
  return kind == Kind::kControl || kind == Kind::kUnknown;
}

int32_t SentencePieceTokenizer::TokenId(std::string_view content) const {
  if (const int32_t id = added_.Find(content); id >= 0) return id;
  const int32_t id = processor_->PieceToId(content);
  if (id < 0 || id >= pieces_) return -1;
  return processor_->IdToPiece(id) == content ? id : -1;
}

std::string SentencePieceTokenizer::TokenName(int32_t id) const {
  if (const AddedToken* token = added_.Find(id)) return token->content;
  return id >= 0 && id < pieces_ ? processor_->IdToPiece(id) : "";
}

std::unique_ptr<Tokenizer> LoadSentencePieceTokenizer(const std::string& path,
                                                      const std::string& config_path) {
  const bool configured = !config_path.empty() && std::filesystem::exists(config_path);
  const nlohmann::json config = configured ? ReadJsonFile(config_path) : nlohmann::json();
  return std::make_unique<SentencePieceTokenizer>(ReadTextFile(path), path,
                                                  JsonReader(config, config_path));
}

}  // namespace palu
