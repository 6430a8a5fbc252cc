// Python's operators on values.
#pragma once

#include <string>

#include "server/text/jinja/context.h"
#include "server/text/jinja/value.h"

namespace palu::jinja {

// + - * / // % **
Value Binary(Context& context, const std::string& op, const Value& left, const Value& right);
Value Negate(const Value& value);
bool Equals(Context& context, const Value& left, const Value& right);
bool Less(Context& context, const Value& left, const Value& right, const char* op = "<");
bool Contains(Context& context, const Value& container, const Value& item);
// == != < <= > >= in, not in
bool Compare(Context& context, const std::string& op, const Value& left, const Value& right);
// Throws the error of an undefined value.
void RequireDefined(const Value& value);
// "…%s…" % arguments; (Python's % on text).
std::string PercentFormat(const std::string& format, const Value& arguments);
// "…{}…".format(arguments).
std::string BraceFormat(Context& context, const std::string& format, const Args& args);

}  // namespace palu::jinja
