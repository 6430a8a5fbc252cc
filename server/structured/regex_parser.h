// Regular expressions to automata over characters.
#pragma once

#include <string_view>

#include "engine/status.h"
#include "server/structured/char_automaton.h"

namespace palu::structured {

enum class RegexMode {
  kSearch,  // JSON Schema's pattern: a match anywhere in the text
  kFull,    // guided_regex: the whole text; ^ and $ at the ends change nothing
};

// ECMA 262 syntax in its regular part: alternatives, groups (names are ignored), quantifiers (lazy
// ones accept the same texts), classes with ranges and negation, . \d \w \s \D \W \S \p{…} \P{…},
// escapes \n \t \r \f \v \0 \xHH \uHHHH \u{H…} \cX, anchors ^ and $. kInvalidArgument, with the
// position, for look-around, back references, \b, flags and malformed input, and when the automaton
// gets too large.
Result<CharDfa> CompileRegex(std::string_view pattern, RegexMode mode);

}  // namespace palu::structured
