// UTF-8, decoded, checked and repaired.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace palu {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD
inline constexpr char32_t kInvalidCodePoint = 0xFFFFFFFF;

// The code point that starts at text[*pos], *pos then behind it. Where no well-formed one starts:
// kInvalidCodePoint, *pos behind the longest prefix of one (at least one byte). *pos < text.size().
char32_t NextCodePoint(std::string_view text, size_t* pos);

void AppendUtf8(char32_t code_point, std::string* out);

// U+FFFD for every maximal prefix of a code point that is cut off (as browsers and Python do).
std::string ReplaceInvalidUtf8(std::string_view text);

// What a broken sequence of several bytes becomes.
enum class Utf8Repair {
  kPerPrefix,  // one U+FFFD for the longest prefix of a code point
  kPerByte,    // one for every byte (sentencepiece)
};

// Makes well-formed UTF-8 out of bytes that come in pieces: holds back at most three of them. Value
// type; not thread-safe.
class Utf8Stream {
 public:
  explicit Utf8Stream(Utf8Repair repair) : repair_(repair) {}

  void Push(std::string_view bytes, std::string* out);
  void Finish(std::string* out);

 private:
  Utf8Repair repair_;
  std::string held_;
};

// Rust's char::is_whitespace, the White_Space property.
bool IsWhitespace(char32_t code_point);

}  // namespace palu
