#include "server/text/byte_level.h"

#include <array>
#include <cstdint>

#include "server/text/utf8.h"

namespace palu {
namespace {

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int, 512> bytes;  // by code point; -1: not in the alphabet

  Alphabet() {
    bytes.fill(-1);
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable =
          (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      const char32_t code_point = printable ? static_cast<char32_t>(byte) : next++;
      bytes[code_point] = byte;
      AppendUtf8(code_point, &characters[static_cast<size_t>(byte)]);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

std::string ToByteLevel(std::string_view text) {
  const Alphabet& alphabet = TheAlphabet();
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  for (const char c : text) out += alphabet.characters[static_cast<uint8_t>(c)];
  return out;
}

std::optional<std::string> FromByteLevel(std::string_view text) {
  const Alphabet& alphabet = TheAlphabet();
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = NextCodePoint(text, &pos);
    if (c >= alphabet.bytes.size() || alphabet.bytes[c] < 0) return std::nullopt;
    out.push_back(static_cast<char>(alphabet.bytes[c]));
  }
  return out;
}

}  // namespace palu
