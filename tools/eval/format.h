// printf into a string, for reports.
#pragma once

#include <string>

namespace palu {

// At most 511 characters.
std::string Format(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace palu
