#include "server/text/normalizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include <utility>
#include <vector>

#include "server/text/byte_level.h"
#include "server/text/text_pattern.h"
#include "server/text/utf8.h"

namespace palu {
namespace {

class SequenceNormalizer : public Normalizer {
 public:
  explicit SequenceNormalizer(std::vector<std::unique_ptr<Normalizer>> parts)
      : parts_(std::move(parts)) {}
  void Apply(std::string* text) const override {
    for (const auto& part : parts_) part->Apply(text);
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

class PrependNormalizer : public Normalizer {
 public:
  explicit PrependNormalizer(std::string prefix) : prefix_(std::move(prefix)) {}
  void Apply(std::string* text) const override {
    if (!text->empty()) text->insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class ReplaceNormalizer : public Normalizer {
 public:
  explicit ReplaceNormalizer(const JsonReader& spec)
      : pattern_(spec.At("pattern")), content_(spec.String("content")) {}
  void Apply(std::string* text) const override { *text = pattern_.Replace(*text, content_); }

 private:
  TextPattern pattern_;
  std::string content_;
};

// NFC, NFD, NFKC or NFKD.
class UnicodeNormalizer : public Normalizer {
 public:
  UnicodeNormalizer(const icu::Normalizer2* form, bool compose) : form_(form), compose_(compose) {}
  void Apply(std::string* text) const override {
    UErrorCode error = U_ZERO_ERROR;
    if (compose_ && form_->isNormalizedUTF8(*text, error)) return;
    std::string out;
    icu::StringByteSink<std::string> sink(&out, static_cast<int32_t>(text->size()));
    form_->normalizeUTF8(0, *text, sink, nullptr, error);
    if (U_SUCCESS(error)) *text = std::move(out);
  }

 private:
  const icu::Normalizer2* form_;
  bool compose_;
};

// Keeps, drops or maps code points one by one.
class CodePointNormalizer : public Normalizer {
 public:
  using Map = void (*)(char32_t code_point, std::string* out);
  explicit CodePointNormalizer(Map map) : map_(map) {}
  void Apply(std::string* text) const override {
    std::string out;
    out.reserve(text->size());
    for (size_t pos = 0; pos < text->size();) map_(NextCodePoint(*text, &pos), &out);
    *text = std::move(out);
  }

 private:
  Map map_;
};

// The full mapping, which does not look at neighbours; U+0130 alone becomes two code points.
void Lowercase(char32_t c, std::string* out) {
  if (c == 0x130) {
    *out += "i\xCC\x87";
  } else {
    AppendUtf8(static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))), out);
  }
}

void DropMarks(char32_t c, std::string* out) {
  const auto mask = U_MASK(u_charType(static_cast<UChar32>(c)));
  if ((mask & (U_GC_MN_MASK | U_GC_MC_MASK | U_GC_ME_MASK)) == 0) AppendUtf8(c, out);
}

class StripNormalizer : public Normalizer {
 public:
  StripNormalizer(bool left, bool right) : left_(left), right_(right) {}
  void Apply(std::string* text) const override {
    size_t begin = text->size();
    size_t end = 0;
    for (size_t pos = 0; pos < text->size();) {
      const size_t at = pos;
      if (IsWhitespace(NextCodePoint(*text, &pos))) continue;
      begin = std::min(begin, at);
      end = pos;
    }
    if (right_) text->resize(std::max(end, left_ ? begin : 0));
    if (left_) text->erase(0, std::min(begin, text->size()));
  }

 private:
  bool left_;
  bool right_;
};

class ByteLevelNormalizer : public Normalizer {
 public:
  void Apply(std::string* text) const override { *text = ToByteLevel(*text); }
};

std::unique_ptr<Normalizer> MakeUnicode(const std::string& type) {
  UErrorCode error = U_ZERO_ERROR;
  const bool compose = type.back() == 'C';
  const UNormalization2Mode mode = compose ? UNORM2_COMPOSE : UNORM2_DECOMPOSE;
  const icu::Normalizer2* form =
      icu::Normalizer2::getInstance(nullptr, type[2] == 'K' ? "nfkc" : "nfc", mode, error);
  if (U_FAILURE(error)) throw LoadError(std::string("ICU data: found ") + u_errorName(error));
  return std::make_unique<UnicodeNormalizer>(form, compose);
}

std::unique_ptr<Normalizer> Make(const JsonReader& spec, int depth) {
  spec.CheckDepth(depth);
  const std::string type = spec.String("type");
  if (type == "Sequence") {
    const JsonReader list = spec.At("normalizers").Array();
    std::vector<std::unique_ptr<Normalizer>> parts;
    for (size_t i = 0; i < list.size(); ++i) parts.push_back(Make(list.At(i), depth + 1));
    return std::make_unique<SequenceNormalizer>(std::move(parts));
  }
  if (type == "Prepend") return std::make_unique<PrependNormalizer>(spec.String("prepend"));
  if (type == "Replace") return std::make_unique<ReplaceNormalizer>(spec);
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") return MakeUnicode(type);
  if (type == "Lowercase") return std::make_unique<CodePointNormalizer>(Lowercase);
  if (type == "StripAccents") return std::make_unique<CodePointNormalizer>(DropMarks);
  if (type == "ByteLevel") return std::make_unique<ByteLevelNormalizer>();
  if (type == "Strip") {
    return std::make_unique<StripNormalizer>(spec.BoolOr("strip_left", true),
                                             spec.BoolOr("strip_right", true));
  }
  spec.At("type").FailValue(
      "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents or "
      "ByteLevel");
}

}  // namespace

std::unique_ptr<Normalizer> MakeNormalizer(const JsonReader& spec) {
  return spec.is_null() ? nullptr : Make(spec, 0);
}

}  // namespace palu
