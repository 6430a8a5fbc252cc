// The formats of JSON Schema that are enforced, as regular expressions.
#pragma once

#include <string_view>

namespace palu::structured {

// Empty: no such format is known here. The expressions take a part of what their RFC allows, and
// nothing else: dates have at most 28 days in February, times no leap seconds.
std::string_view FormatRegex(std::string_view format);

}  // namespace palu::structured
