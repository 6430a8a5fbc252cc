// {{ value|filter }} and {% if value is test %}.
#pragma once

#include <string_view>

#include "server/text/jinja/context.h"
#include "server/text/jinja/value.h"

namespace palu::jinja {

using Filter = Value (*)(Context& context, const Value& value, const Args& args);
using Test = bool (*)(Context& context, const Value& value, const Args& args);

struct NamedFilter {
  std::string_view name;
  Filter filter;
};

Filter FindFilter(std::string_view name);  // nullptr: none
Test FindTest(std::string_view name);
// The parts that FindFilter puts together.
Filter FindTextFilter(std::string_view name);
Filter FindSequenceFilter(std::string_view name);
Filter FindSelectionFilter(std::string_view name);

// Throw TemplateAssertionError for an unknown name.
Value ApplyFilter(Context& context, std::string_view name, const Value& value, const Args& args);
bool ApplyTest(Context& context, std::string_view name, const Value& value, const Args& args);

}  // namespace palu::jinja
