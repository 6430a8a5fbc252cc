// Characters by how automata tend to treat them.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "server/structured/utf8_codes.h"

namespace palu::structured {

// A set of classes, one bit each.
using TextClasses = uint16_t;

inline constexpr TextClasses kLower = 1 << 0;
inline constexpr TextClasses kUpper = 1 << 1;
inline constexpr TextClasses kDigit = 1 << 2;
inline constexpr TextClasses kSpace = 1 << 3;
inline constexpr TextClasses kUnderscore = 1 << 4;
inline constexpr TextClasses kHyphen = 1 << 5;
inline constexpr TextClasses kPoint = 1 << 6;
inline constexpr TextClasses kOtherAscii = 1 << 7;
inline constexpr TextClasses kBeyondAscii = 1 << 8;
// What JSON strings do not have as it is.
inline constexpr TextClasses kQuote = 1 << 9;
inline constexpr TextClasses kBackslash = 1 << 10;
inline constexpr TextClasses kControl = 1 << 11;
// No UTF-8, and all that follows it.
inline constexpr TextClasses kBroken = 1 << 12;

inline constexpr TextClasses kPlainAscii =
    kLower | kUpper | kDigit | kSpace | kUnderscore | kHyphen | kPoint | kOtherAscii;

// Each class but kBroken with the byte sequences that together spell its characters.
const std::vector<std::pair<TextClasses, std::vector<ByteSequence>>>& ClassSpellings();
// By the first byte of a character; bytes that begin none are broken.
const std::array<TextClasses, 256>& ClassesByFirstByte();

// Reads a text byte by byte. A plain value.
class ClassReader {
 public:
  // Of the character that the byte begins or goes on with.
  TextClasses Read(uint8_t byte);

 private:
  uint8_t left_ = 0;                    // bytes of the character that are to come
  uint8_t first_ = 0x80, last_ = 0xBF;  // what the next of them may be
  bool broken_ = false;
};

}  // namespace palu::structured
