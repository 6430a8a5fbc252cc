#include "server/structured/utf8_codes.h"

#include <algorithm>

namespace palu::structured {
namespace {

// Splits until both ends differ only in a tail of places that go through all continuation bytes.
void Split(CodeRange range, std::vector<ByteSequence>* out) {
  static constexpr CodePoint kLimits[] = {0x7F, 0x7FF, 0xFFFF};
  for (const CodePoint limit : kLimits) {
    if (range.first <= limit && range.last > limit) {
      Split({range.first, limit}, out);
      Split({limit + 1, range.last}, out);
      return;
    }
  }
  for (int tail = 1; tail < 4 && range.first > 0x7F; ++tail) {
    const CodePoint mask = (CodePoint{1} << (6 * tail)) - 1;
    if ((range.first & ~mask) == (range.last & ~mask)) break;
    if ((range.first & mask) != 0) {
      Split({range.first, range.first | mask}, out);
      Split({(range.first | mask) + 1, range.last}, out);
      return;
    }
    if ((range.last & mask) != mask) {
      Split({range.first, (range.last & ~mask) - 1}, out);
      Split({range.last & ~mask, range.last}, out);
      return;
    }
  }
  std::string low, high;
  AppendUtf8(range.first, &low);
  AppendUtf8(range.last, &high);
  ByteSequence sequence;
  sequence.length = static_cast<int>(low.size());
  for (size_t i = 0; i < low.size(); ++i) {
    sequence.first[i] = static_cast<uint8_t>(low[i]);
    sequence.last[i] = static_cast<uint8_t>(high[i]);
  }
  out->push_back(sequence);
}

}  // namespace

std::optional<std::vector<CodePoint>> DecodeUtf8(std::string_view text) {
  std::vector<CodePoint> codes;
  codes.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const int length = lead < 0x80                   ? 1
                       : lead >= 0xC2 && lead < 0xE0 ? 2
                       : lead >= 0xE0 && lead < 0xF0 ? 3
                       : lead >= 0xF0 && lead < 0xF5 ? 4
                                                     : 0;
    if (length == 0 || i + static_cast<size_t>(length) > text.size()) return std::nullopt;
    CodePoint code = length == 1 ? lead : lead & (0x7Fu >> length);
    for (int k = 1; k < length; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + static_cast<size_t>(k)]);
      if ((byte & 0xC0) != 0x80) return std::nullopt;
      code = code << 6 | (byte & 0x3Fu);
    }
    const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
    if (overlong || code > kLastCodePoint || (code >= 0xD800 && code <= 0xDFFF)) {
      return std::nullopt;
    }
    codes.push_back(code);
    i += static_cast<size_t>(length);
  }
  return codes;
}

void AppendUtf8(CodePoint code, std::string* text) {
  const auto add = [text](CodePoint byte) { text->push_back(static_cast<char>(byte)); };
  if (code < 0x80) return add(code);
  if (code < 0x800) {
    add(0xC0 | code >> 6);
  } else if (code < 0x10000) {
    add(0xE0 | code >> 12);
    add(0x80 | (code >> 6 & 0x3F));
  } else {
    add(0xF0 | code >> 18);
    add(0x80 | (code >> 12 & 0x3F));
    add(0x80 | (code >> 6 & 0x3F));
  }
  add(0x80 | (code & 0x3F));
}

int HexDigit(CodePoint code) {
  if (code >= '0' && code <= '9') return static_cast<int>(code - '0');
  if (code >= 'a' && code <= 'f') return static_cast<int>(code - 'a') + 10;
  if (code >= 'A' && code <= 'F') return static_cast<int>(code - 'A') + 10;
  return -1;
}

std::vector<ByteSequence> Utf8Sequences(CodeRange range) {
  std::vector<ByteSequence> sequences;
  const auto add = [&sequences](CodePoint first, CodePoint last) {
    if (first <= last) Split({first, last}, &sequences);
  };
  add(range.first, std::min<CodePoint>(range.last, 0xD7FF));
  add(std::max<CodePoint>(range.first, 0xE000), std::min(range.last, kLastCodePoint));
  return sequences;
}

}  // namespace palu::structured
