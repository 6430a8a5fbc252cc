// The numbers of a JSON schema as texts.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "engine/status.h"
#include "server/structured/char_automaton.h"

namespace palu::structured {

struct NumberBound {
  enum class Kind { kAtLeast, kMoreThan, kAtMost, kLessThan };
  Kind kind = Kind::kAtLeast;
  std::string_view value;  // a JSON number
};

// The JSON spellings of the integers, or numbers, within all bounds that are multiples of all of
// `multiples` (which make numbers integers). Without bounds 16 digits before the point, 16 behind
// and two in the exponent are taken; with bounds no exponent, and 15 digits in all where there is a
// point, as that many survive a double. kInvalidArgument: a bound of more than 30 digits, a
// multiple that is too large.
Result<CharDfa> NumberAutomaton(bool integer, const std::vector<NumberBound>& bounds,
                                const std::vector<int>& multiples);

}  // namespace palu::structured
