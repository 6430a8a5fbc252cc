// x.name, x[key], x[a:b:c] and calls.
#pragma once

#include <optional>
#include <string>

#include "server/text/jinja/context.h"
#include "server/text/jinja/value.h"

namespace palu::jinja {

// Methods come before items, as in Jinja; undefined where there is neither.
Value GetAttribute(const Value& value, const std::string& name);
// Items come before methods.
Value GetItem(const Value& value, const Value& key);
// none for a part that is not given.
Value GetSlice(Context& context, const Value& value, const Value& start, const Value& stop,
               const Value& step);
Value Call(Context& context, const Value& callable, const Args& args);

// A bound method of text, or of a list, tuple or dict. Methods that would change the value give a
// SecurityError when used.
std::optional<Value> FindTextMethod(const Value& text, const std::string& name);
std::optional<Value> FindContainerMethod(const Value& container, const std::string& name);

// holds: the value that call keeps, whose depth counts.
Value MakeCallable(std::string name, std::function<Value(Context&, const Args&)> call,
                   const Value& holds = {});

}  // namespace palu::jinja
