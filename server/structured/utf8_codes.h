// UTF-8 to code points and back.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/structured/code_set.h"

namespace palu::structured {

// Nothing if the text is no valid UTF-8.
std::optional<std::vector<CodePoint>> DecodeUtf8(std::string_view text);
// Appends one code point.
void AppendUtf8(CodePoint code, std::string* text);
// 0..15, or -1.
int HexDigit(CodePoint code);

// Bytes [first[i], last[i]] at place i.
struct ByteSequence {
  int length = 0;
  uint8_t first[4] = {};
  uint8_t last[4] = {};
};

// The byte sequences that together spell the code points of a range, surrogates left out.
std::vector<ByteSequence> Utf8Sequences(CodeRange range);

}  // namespace palu::structured
