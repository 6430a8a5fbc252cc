// GPT-2's alphabet: every byte as one printable character.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace palu {

// Each byte of text as its character.
std::string ToByteLevel(std::string_view text);
// The bytes that text stands for; nothing when a character of it is outside the alphabet.
std::optional<std::string> FromByteLevel(std::string_view text);

}  // namespace palu
