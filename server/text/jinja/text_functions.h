// Python's functions on text, by Unicode.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace palu::jinja {

std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Capitalize(std::string_view text);
std::string TitleCase(std::string_view text);  // str.title()
std::string SwapCase(std::string_view text);

enum class StripSide { kBoth, kLeft, kRight };
// characters: what to take off; empty: white space.
std::string Strip(std::string_view text, StripSide side, std::string_view characters);

// At most `limit` splits (< 0: all). By white space: runs of it, none at the ends.
std::vector<std::string> SplitSpace(std::string_view text, int64_t limit);
std::vector<std::string> SplitSpaceRight(std::string_view text, int64_t limit);
std::vector<std::string> Split(std::string_view text, std::string_view separator, int64_t limit);
std::vector<std::string> SplitRight(std::string_view text, std::string_view separator,
                                    int64_t limit);
std::vector<std::string> SplitLines(std::string_view text, bool keep_ends);
// limit < 0: all.
std::string ReplaceText(std::string_view text, std::string_view old_text, std::string_view new_text,
                        int64_t limit);

bool IsPythonSpace(char32_t c);
// True when text is not empty and every code point passes.
bool All(std::string_view text, bool (*test)(char32_t));
bool IsUpperText(std::string_view text);
bool IsLowerText(std::string_view text);

}  // namespace palu::jinja
