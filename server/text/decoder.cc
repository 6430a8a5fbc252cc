#include "server/text/decoder.h"

#include <cctype>
#include <cstdlib>
#include <utility>

#include "server/text/byte_level.h"
#include "server/text/text_pattern.h"

namespace palu {
namespace {

class PlainDecoder : public Decoder {
 public:
  PlainDecoder() { rules_.separator.assign(1, ' '); }
  std::string TokenBytes(std::string_view token) const override { return std::string(token); }
};

class ByteLevelDecoder : public Decoder {
 public:
  std::string TokenBytes(std::string_view token) const override {
    return FromByteLevel(token).value_or(std::string(token));
  }
};

// A Sequence of per-token steps, then Fuse and Strip on the text as a whole.
class StepDecoder : public Decoder {
 public:
  explicit StepDecoder(const JsonReader& spec) { Add(spec, 0); }

  std::string TokenBytes(std::string_view token) const override {
    std::string text(token);
    for (const Step& step : steps_) {
      if (step.kind == Step::kReplace) {
        text = step.pattern->Replace(text, step.content);
      } else if (step.kind == Step::kByteLevel) {
        text = FromByteLevel(text).value_or(text);
      } else if (IsByteToken(text)) {
        return std::string(1,
                           static_cast<char>(std::strtol(text.substr(3, 2).c_str(), nullptr, 16)));
      }
    }
    return text;
  }

 private:
  struct Step {
    enum Kind { kReplace, kByteFallback, kByteLevel } kind;
    std::shared_ptr<const TextPattern> pattern;
    std::string content;
  };

  static bool IsByteToken(const std::string& token) {
    return token.size() == 6 && token.starts_with("<0x") && token[5] == '>' &&
           std::isxdigit(static_cast<unsigned char>(token[3])) != 0 &&
           std::isxdigit(static_cast<unsigned char>(token[4])) != 0;
  }

  void Add(const JsonReader& spec, int depth) {
    spec.CheckDepth(depth);
    const std::string type = spec.String("type");
    if (type == "Sequence") {
      const JsonReader list = spec.At("decoders").Array();
      for (size_t i = 0; i < list.size(); ++i) Add(list.At(i), depth + 1);
    } else if (type == "Fuse") {
      fused_ = true;
    } else if (type == "Strip") {
      AddStrip(spec);
    } else {
      if (fused_) spec.At("type").FailValue("only Strip after Fuse");
      AddTokenStep(spec, type);
    }
  }

  void AddTokenStep(const JsonReader& spec, const std::string& type) {
    if (type == "Replace") {
      steps_.push_back({Step::kReplace, std::make_shared<TextPattern>(spec.At("pattern")),
                        spec.String("content")});
    } else if (type == "ByteFallback") {
      rules_.repair = Utf8Repair::kPerByte;
      steps_.push_back({Step::kByteFallback, nullptr, {}});
    } else if (type == "ByteLevel") {
      steps_.push_back({Step::kByteLevel, nullptr, {}});
      fused_ = true;
    } else if (type == "Metaspace") {
      AddMetaspace(spec);
    } else {
      spec.At("type").FailValue(
          "Sequence, ByteLevel, Replace, ByteFallback, Fuse, Strip or Metaspace");
    }
  }

  void AddMetaspace(const JsonReader& spec) {
    const std::string mark = spec.StringOr("replacement", "\xE2\x96\x81");
    if (mark.empty()) spec.At("replacement").FailValue("a character");
    const char* by_flag = spec.BoolOr("add_prefix_space", true) ? "always" : "never";
    if (spec.StringOr("prepend_scheme", by_flag) != "never") rules_.first_drops.assign(1, ' ');
    steps_.push_back({Step::kReplace, std::make_shared<TextPattern>(mark), " "});
  }

  void AddStrip(const JsonReader& spec) {
    if (!fused_) spec.At("type").FailValue("Fuse before Strip");
    if (!rules_.strip_content.empty()) spec.At("type").FailValue("one Strip");
    rules_.strip_content = spec.String("content");
    size_t pos = 0;
    if (rules_.strip_content.empty() ||
        (NextCodePoint(rules_.strip_content, &pos), pos != rules_.strip_content.size())) {
      spec.At("content").FailValue("one character");
    }
    rules_.strip_start = static_cast<int>(spec.IntOr("start", 0, 1 << 20, 0));
    rules_.strip_stop = static_cast<int>(spec.IntOr("stop", 0, 1 << 20, 0));
  }

  std::vector<Step> steps_;
  bool fused_ = false;
};

}  // namespace

std::unique_ptr<Decoder> MakeDecoder(const JsonReader& spec) {
  if (spec.is_null()) return std::make_unique<PlainDecoder>();
  if (spec.String("type") == "ByteLevel") return std::make_unique<ByteLevelDecoder>();
  return std::make_unique<StepDecoder>(spec);
}

void RuledText::Push(std::string bytes, std::string* out) {
  if (!first_ && !rules_->separator.empty()) bytes.insert(0, rules_->separator);
  if (first_ && !rules_->first_drops.empty()) {
    for (size_t at = bytes.find(rules_->first_drops); at != std::string::npos;
         at = bytes.find(rules_->first_drops)) {
      bytes.erase(at, rules_->first_drops.size());
    }
  }
  first_ = false;
  if (rules_->strip_content.empty()) return utf8_.Push(bytes, out);
  std::string text;
  utf8_.Push(bytes, &text);
  Pass(text, out);
}

void RuledText::Pass(std::string_view text, std::string* out) {
  const std::string& strip = rules_->strip_content;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    NextCodePoint(text, &pos);
    const std::string_view character = text.substr(begin, pos - begin);
    const bool strippable = character == strip;
    if (stripped_ >= 0) {
      if (strippable && stripped_ < rules_->strip_start) {
        ++stripped_;
        continue;
      }
      stripped_ = -1;
    }
    if (strippable) {
      if (held_ < rules_->strip_stop) {
        ++held_;
        continue;
      }
    } else {
      for (; held_ > 0; --held_) *out += strip;
    }
    out->append(character);
  }
}

void RuledText::Finish(std::string* out) {
  std::string text;
  utf8_.Finish(&text);
  if (rules_->strip_content.empty()) {
    *out += text;
  } else {
    Pass(text, out);
  }
  held_ = 0;
}

}  // namespace palu
