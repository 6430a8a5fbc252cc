// Functions that every template has.
#pragma once

#include <string>

#include "server/text/jinja/value.h"

namespace palu::jinja {

// range, dict, namespace, joiner, cycler, raise_exception, strftime_now; nothing for another name.
std::optional<Value> FindGlobal(const std::string& name);

}  // namespace palu::jinja
