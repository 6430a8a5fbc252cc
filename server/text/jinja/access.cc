#include "server/text/jinja/access.h"

#include <algorithm>

#include "server/text/jinja/error.h"
#include "server/text/jinja/loop.h"
#include "server/text/jinja/operators.h"
#include "server/text/jinja/value_text.h"

namespace palu::jinja {
namespace {

std::string ObjectName(const Value& value) {
  return value.is_none() ? "None" : std::string(value.TypeName()) + " object";
}

Value MissingAttribute(const Value& value, const std::string& name) {
  return Value::MakeUndefined("'" + ObjectName(value) + "' has no attribute " + Repr(Value(name)));
}

std::optional<Value> Member(const Value& value, const std::string& name) {
  if (name.starts_with("__") && name.ends_with("__")) {
    return Value::MakeUndefined(
        "access to attribute '" + name + "' of '" + value.TypeName() + "' object is unsafe.",
        "SecurityError");
  }
  switch (value.type()) {
    case Type::kString:
      return FindTextMethod(value, name);
    case Type::kList:
    case Type::kTuple:
    case Type::kDict:
      return FindContainerMethod(value, name);
    case Type::kLoop:
      return LoopAttribute(value, name);
    case Type::kNamespace: {
      const auto found = value.name_space().attributes.find(name);
      if (found != value.name_space().attributes.end()) return found->second;
      return std::nullopt;
    }
    case Type::kCallable:
      if (name == "name") return Value(value.callable().name);
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

// An index, negative ones from the end; nothing when out of range.
std::optional<size_t> Position(int64_t index, size_t size) {
  if (index < 0) index += static_cast<int64_t>(size);
  if (index < 0 || index >= static_cast<int64_t>(size)) return std::nullopt;
  return static_cast<size_t>(index);
}

std::optional<Value> Element(const Value& value, const Value& key) {
  if (value.Is(Type::kDict)) {
    const Value* found = key.IsHashable() ? value.dict().Find(key) : nullptr;
    return found == nullptr ? std::nullopt : std::optional<Value>(*found);
  }
  if (!key.is_integer()) return std::nullopt;
  if (value.is_sequence()) {
    const auto at = Position(key.integer(), value.items().size());
    return at ? std::optional<Value>(value.items()[*at]) : std::nullopt;
  }
  if (value.is_string()) {
    const std::string& text = value.text();
    const auto at = Position(key.integer(), CodePointCount(text));
    if (!at) return std::nullopt;
    const size_t begin = CodePointOffset(text, *at);
    const size_t end = begin + CodePointOffset(std::string_view(text).substr(begin), 1);
    return Value(text.substr(begin, end - begin), value.safe());
  }
  return std::nullopt;
}

// A slice's bound, clamped as Python does.
int64_t Bound(const Value& value, int64_t fallback, int64_t size, bool backwards) {
  if (value.is_none()) return fallback;
  if (!value.is_integer())
    TypeError("slice indices must be integers or None or have an __index__ method");
  int64_t bound = value.integer();
  if (bound < 0) bound = bound < -size ? -1 : bound + size;
  const int64_t low = backwards ? -1 : 0;
  const int64_t high = backwards ? size - 1 : size;
  if (value.integer() < -size) return low;
  return std::clamp(bound, low, high);
}

}  // namespace

Value MakeCallable(std::string name, std::function<Value(Context&, const Args&)> call,
                   const Value& holds) {
  const int depth = holds.depth() + 1;
  if (depth > kMaxValueDepth) Fail("RecursionError", "a value nests too deeply");
  return std::make_shared<const Callable>(Callable{std::move(name), std::move(call), depth});
}

Value GetAttribute(const Value& value, const std::string& name) {
  RequireDefined(value);
  if (auto member = Member(value, name)) return *std::move(member);
  if (value.Is(Type::kDict)) {
    if (const Value* item = value.dict().Find(std::string_view(name))) return *item;
  }
  return MissingAttribute(value, name);
}

Value GetItem(const Value& value, const Value& key) {
  RequireDefined(value);
  if (auto element = Element(value, key)) return *std::move(element);
  if (key.is_string()) {
    if (auto member = Member(value, key.text())) return *std::move(member);
    return MissingAttribute(value, key.text());
  }
  return Value::MakeUndefined(ObjectName(value) + " has no element " + Repr(key));
}

Value GetSlice(Context& context, const Value& value, const Value& start, const Value& stop,
               const Value& step) {
  RequireDefined(value);
  if (!value.is_string() && !value.is_sequence()) return MissingAttribute(value, "slice");
  context.Charge(value);
  const std::vector<Value> items = Iterate(value);
  const int64_t size = static_cast<int64_t>(items.size());
  const int64_t stride = step.is_none() ? 1 : step.is_integer() ? step.integer() : 0;
  if (stride == 0) Fail("ValueError", "slice step cannot be zero");
  const bool backwards = stride < 0;
  const int64_t from = Bound(start, backwards ? size - 1 : 0, size, backwards);
  const int64_t to = Bound(stop, backwards ? -1 : size, size, backwards);
  std::vector<Value> out;
  for (int64_t i = from; backwards ? i > to : i < to;) {
    out.push_back(items[static_cast<size_t>(i)]);
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  if (!value.is_string()) {
    return value.Is(Type::kList) ? Value::MakeList(std::move(out))
                                 : Value::MakeTuple(std::move(out));
  }
  std::string text;
  for (const Value& character : out) text += character.text();
  return Value(std::move(text), value.safe());
}

Value Call(Context& context, const Value& callable, const Args& args) {
  RequireDefined(callable);
  context.Step();
  for (const Value& arg : args.positional) context.Charge(arg);
  if (callable.Is(Type::kCallable)) return callable.callable().call(context, args);
  if (callable.Is(Type::kLoop)) {
    if (!callable.loop().recurse) {
      TypeError("The loop must have the 'recursive' marker to be called recursively.");
    }
    return callable.loop().recurse(args.Need(0, "iterable", "loop"));
  }
  TypeError(std::string("'") + callable.TypeName() + "' object is not callable");
}

}  // namespace palu::jinja
