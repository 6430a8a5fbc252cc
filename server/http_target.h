// The path of a request target.
#pragma once

#include <string>
#include <string_view>

namespace palu {

// Path of an origin-form ("/a%2Fb?q") or absolute-form ("http://host/a") target, percent-decoded.
// A broken escape stays as it is. Pure.
std::string PathOfTarget(std::string_view target);

}  // namespace palu
