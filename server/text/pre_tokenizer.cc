#include "server/text/pre_tokenizer.h"

#include <unicode/uchar.h>

#include <utility>

#include "server/text/byte_level.h"
#include "server/text/split_pre_tokenizer.h"
#include "server/text/utf8.h"

namespace palu {
namespace {

// GPT-2's own words.
constexpr const char* kByteLevelWords =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kWhitespaceWords = R"(\w+|[^\w\s]+)";

bool IsNumeric(char32_t c) {
  return (U_MASK(u_charType(static_cast<UChar32>(c))) & U_GC_N_MASK) != 0;
}

bool IsPunctuation(char32_t c) {
  const bool ascii = (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
                     (c >= '{' && c <= '~');
  return ascii || (U_MASK(u_charType(static_cast<UChar32>(c))) & U_GC_P_MASK) != 0;
}

class ByteLevelPreTokenizer : public PreTokenizer {
 public:
  ByteLevelPreTokenizer(bool add_prefix_space, bool use_regex)
      : add_prefix_space_(add_prefix_space),
        use_regex_(use_regex),
        words_(FindPattern(TextPattern(Regex(kByteLevelWords))), SplitBehavior::kIsolated, false) {}

  void Apply(std::vector<TextPiece>* pieces) const override {
    if (add_prefix_space_) {
      for (TextPiece& piece : *pieces) {
        if (piece.text[0] != ' ') piece.text.insert(piece.text.begin(), ' ');
      }
    }
    if (use_regex_) words_.Apply(pieces);
    for (TextPiece& piece : *pieces) piece.text = ToByteLevel(piece.text);
  }

 private:
  bool add_prefix_space_;
  bool use_regex_;
  SplitPreTokenizer words_;
};

// sentencepiece's mark for spaces.
class MetaspacePreTokenizer : public PreTokenizer {
 public:
  enum class Prepend { kAlways, kFirst, kNever };

  MetaspacePreTokenizer(std::string mark, Prepend prepend, bool split)
      : mark_(std::move(mark)),
        prepend_(prepend),
        split_(split),
        words_(FindPattern(TextPattern(mark_)), SplitBehavior::kMergedWithNext, false) {}

  void Apply(std::vector<TextPiece>* pieces) const override {
    for (TextPiece& piece : *pieces) {
      std::string marked;
      for (const char c : piece.text) {
        if (c == ' ') {
          marked += mark_;
        } else {
          marked += c;
        }
      }
      const bool prefix =
          prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && piece.at_start);
      if (prefix && !marked.starts_with(mark_)) marked.insert(0, mark_);
      piece.text = std::move(marked);
    }
    if (split_) words_.Apply(pieces);
  }

 private:
  std::string mark_;
  Prepend prepend_;
  bool split_;
  SplitPreTokenizer words_;
};

class SequencePreTokenizer : public PreTokenizer {
 public:
  explicit SequencePreTokenizer(std::vector<std::unique_ptr<PreTokenizer>> parts)
      : parts_(std::move(parts)) {}
  void Apply(std::vector<TextPiece>* pieces) const override {
    for (const auto& part : parts_) part->Apply(pieces);
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

std::unique_ptr<PreTokenizer> MakeMetaspace(const JsonReader& spec) {
  using Prepend = MetaspacePreTokenizer::Prepend;
  const std::string mark = spec.StringOr("replacement", "\xE2\x96\x81");
  if (mark.empty()) spec.At("replacement").FailValue("a character");
  const char* by_flag = spec.BoolOr("add_prefix_space", true) ? "always" : "never";
  const std::string scheme = spec.StringOr("prepend_scheme", by_flag);
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    spec.At("prepend_scheme").FailValue("always, first or never");
  }
  const Prepend prepend = scheme == "always"  ? Prepend::kAlways
                          : scheme == "first" ? Prepend::kFirst
                                              : Prepend::kNever;
  return std::make_unique<MetaspacePreTokenizer>(mark, prepend, spec.BoolOr("split", true));
}

std::unique_ptr<PreTokenizer> MakeSplit(SplitPreTokenizer::Finder finder, SplitBehavior behavior,
                                        bool invert = false) {
  return std::make_unique<SplitPreTokenizer>(std::move(finder), behavior, invert);
}

std::unique_ptr<PreTokenizer> Make(const JsonReader& spec, int depth) {
  spec.CheckDepth(depth);
  const std::string type = spec.String("type");
  if (type == "Sequence") {
    const JsonReader list = spec.At("pretokenizers").Array();
    std::vector<std::unique_ptr<PreTokenizer>> parts;
    for (size_t i = 0; i < list.size(); ++i) parts.push_back(Make(list.At(i), depth + 1));
    return std::make_unique<SequencePreTokenizer>(std::move(parts));
  }
  if (type == "Split") {
    return MakeSplit(FindPattern(TextPattern(spec.At("pattern"))),
                     ReadSplitBehavior(spec.At("behavior")), spec.BoolOr("invert", false));
  }
  if (type == "ByteLevel") {
    return std::make_unique<ByteLevelPreTokenizer>(spec.BoolOr("add_prefix_space", true),
                                                   spec.BoolOr("use_regex", true));
  }
  if (type == "Metaspace") return MakeMetaspace(spec);
  if (type == "Digits") {
    return MakeSplit(FindCodePoints(IsNumeric), spec.BoolOr("individual_digits", false)
                                                    ? SplitBehavior::kIsolated
                                                    : SplitBehavior::kContiguous);
  }
  if (type == "Punctuation") {
    return MakeSplit(FindCodePoints(IsPunctuation), spec.Has("behavior")
                                                        ? ReadSplitBehavior(spec.At("behavior"))
                                                        : SplitBehavior::kIsolated);
  }
  if (type == "Whitespace") {
    return MakeSplit(FindPattern(TextPattern(Regex(kWhitespaceWords))), SplitBehavior::kRemoved,
                     /*invert=*/true);
  }
  if (type == "WhitespaceSplit") {
    return MakeSplit(FindCodePoints(IsWhitespace), SplitBehavior::kRemoved);
  }
  spec.At("type").FailValue(
      "Sequence, Split, ByteLevel, Metaspace, Digits, Punctuation, Whitespace or WhitespaceSplit");
}

}  // namespace

std::unique_ptr<PreTokenizer> MakePreTokenizer(const JsonReader& spec) {
  return spec.is_null() ? nullptr : Make(spec, 0);
}

}  // namespace palu
