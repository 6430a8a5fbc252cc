#include "server/structured/text_classes.h"

namespace palu::structured {

const std::vector<std::pair<TextClasses, std::vector<ByteSequence>>>& ClassSpellings() {
  static const auto spellings = [] {
    const std::vector<std::pair<TextClasses, std::vector<CodeRange>>> classes = {
        {kLower, {{'a', 'z'}}},
        {kUpper, {{'A', 'Z'}}},
        {kDigit, {{'0', '9'}}},
        {kSpace, {{' ', ' '}}},
        {kUnderscore, {{'_', '_'}}},
        {kHyphen, {{'-', '-'}}},
        {kPoint, {{'.', '.'}}},
        {kOtherAscii,
         {{'!', '!'},
          {'#', ','},
          {'/', '/'},
          {':', '@'},
          {'[', '['},
          {']', '^'},
          {'`', '`'},
          {'{', 0x7F}}},
        {kBeyondAscii, {{0x80, kLastCodePoint}}},
        {kQuote, {{'"', '"'}}},
        {kBackslash, {{'\\', '\\'}}},
        {kControl, {{0, 0x1F}}},
    };
    std::vector<std::pair<TextClasses, std::vector<ByteSequence>>> result;
    for (const auto& [text_class, ranges] : classes) {
      auto& sequences = result.emplace_back(text_class, std::vector<ByteSequence>()).second;
      for (const CodeRange& range : ranges) {
        const std::vector<ByteSequence> more = Utf8Sequences(range);
        sequences.insert(sequences.end(), more.begin(), more.end());
      }
    }
    return result;
  }();
  return spellings;
}

const std::array<TextClasses, 256>& ClassesByFirstByte() {
  static const auto classes = [] {
    std::array<TextClasses, 256> result;
    result.fill(kBroken);
    for (const auto& [text_class, sequences] : ClassSpellings()) {
      for (const ByteSequence& sequence : sequences) {
        for (int byte = sequence.first[0]; byte <= sequence.last[0]; ++byte) {
          result[static_cast<size_t>(byte)] = text_class;
        }
      }
    }
    return result;
  }();
  return classes;
}

TextClasses ClassReader::Read(uint8_t byte) {
  if (broken_) return kBroken;
  if (left_ > 0) {
    broken_ = byte < first_ || byte > last_;
    --left_;
    first_ = 0x80;
    last_ = 0xBF;
    return broken_ ? kBroken : kBeyondAscii;
  }
  const TextClasses found = ClassesByFirstByte()[byte];
  broken_ = found == kBroken;
  if (found != kBeyondAscii) return found;
  left_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
  // Overlong forms, surrogates and what is beyond the last code point are no UTF-8.
  if (byte == 0xE0) first_ = 0xA0;
  if (byte == 0xED) last_ = 0x9F;
  if (byte == 0xF0) first_ = 0x90;
  if (byte == 0xF4) last_ = 0x8F;
  return found;
}

}  // namespace palu::structured
