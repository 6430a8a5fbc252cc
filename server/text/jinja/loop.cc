#include "server/text/jinja/loop.h"

#include "server/text/jinja/access.h"
#include "server/text/jinja/error.h"
#include "server/text/jinja/operators.h"

namespace palu::jinja {
namespace {

Value Changed(const Value& self) {
  return MakeCallable("changed", [self](Context& context, const Args& args) -> Value {
    Loop& loop = self.loop();
    Value now = Value::MakeTuple(args.positional);
    const bool changed = !loop.last_changed || !Equals(context, *loop.last_changed, now);
    loop.last_changed = std::move(now);
    return changed;
  });
}

Value Cycle(const Value& self) {
  return MakeCallable("cycle", [self](Context&, const Args& args) {
    if (args.positional.empty()) TypeError("no items for cycling given");
    return args.positional[self.loop().index % args.positional.size()];
  });
}

}  // namespace

std::optional<Value> LoopAttribute(const Value& value, const std::string& name) {
  const Loop& loop = value.loop();
  const int64_t index = static_cast<int64_t>(loop.index);
  const int64_t length = static_cast<int64_t>(loop.items.size());
  if (name == "index") return Value(index + 1);
  if (name == "index0") return Value(index);
  if (name == "revindex") return Value(length - index);
  if (name == "revindex0") return Value(length - index - 1);
  if (name == "first") return Value(index == 0);
  if (name == "last") return Value(index + 1 == length);
  if (name == "length") return Value(length);
  if (name == "depth") return Value(loop.depth);
  if (name == "depth0") return Value(loop.depth - 1);
  if (name == "previtem") {
    return index > 0 ? loop.items[loop.index - 1]
                     : Value::MakeUndefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index + 1 < length ? loop.items[loop.index + 1]
                              : Value::MakeUndefined("there is no next item");
  }
  if (name == "cycle") return Cycle(value);
  if (name == "changed") return Changed(value);
  return std::nullopt;
}

}  // namespace palu::jinja
