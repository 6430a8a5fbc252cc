#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "server/text/jinja/access.h"
#include "server/text/jinja/error.h"
#include "server/text/jinja/operators.h"
#include "server/text/jinja/value_text.h"

namespace palu::jinja {
namespace {

constexpr std::array<std::string_view, 12> kMutators = {
    "append",  "clear", "extend",  "insert",     "pop",    "remove",
    "reverse", "sort",  "popitem", "setdefault", "update", "__setitem__"};

Value Unsafe(const Value& value, const std::string& name) {
  return Value::MakeUndefined(
      "access to attribute '" + name + "' of '" + value.TypeName() + "' object is unsafe.",
      "SecurityError");
}

enum class View { kKeys, kValues, kItems };

Value DictView(Context& context, const Value& self, View view) {
  context.Charge(self);
  std::vector<Value> out;
  for (const auto& [key, value] : self.dict().entries()) {
    out.push_back(view == View::kKeys     ? key
                  : view == View::kValues ? value
                                          : Value::MakeTuple({key, value}));
  }
  return Value::MakeList(std::move(out));
}

std::optional<Value> DictMethod(const Value& self, const std::string& name) {
  if (name == "get") {
    return MakeCallable(
        name,
        [self](Context&, const Args& args) {
          const Value* found = self.dict().Find(args.Need(0, "key", "get"));
          if (found != nullptr) return *found;
          const Value* fallback = args.Find(1, "default");
          return fallback == nullptr ? Value() : *fallback;
        },
        self);
  }
  if (name == "copy") {
    return MakeCallable(
        name, [self](Context&, const Args&) { return self; }, self);
  }
  if (name != "keys" && name != "values" && name != "items") return std::nullopt;
  const View view = name == "keys" ? View::kKeys : name == "values" ? View::kValues : View::kItems;
  return MakeCallable(
      name, [self, view](Context& context, const Args&) { return DictView(context, self, view); });
}

std::optional<Value> SequenceMethod(const Value& self, const std::string& name) {
  if (name == "copy" && self.Is(Type::kList)) {
    return MakeCallable(
        name, [self](Context&, const Args&) { return self; }, self);
  }
  if (name == "count") {
    return MakeCallable(
        name,
        [self](Context& context, const Args& args) -> Value {
          const Value& wanted = args.Need(0, "value", "count");
          return static_cast<int64_t>(
              std::count_if(self.items().begin(), self.items().end(),
                            [&](const Value& item) { return Equals(context, item, wanted); }));
        },
        self);
  }
  if (name == "index") {
    return MakeCallable(
        name,
        [self](Context& context, const Args& args) -> Value {
          const Value& wanted = args.Need(0, "value", "index");
          for (size_t i = 0; i < self.items().size(); ++i) {
            if (Equals(context, self.items()[i], wanted)) return static_cast<int64_t>(i);
          }
          Fail("ValueError", Repr(wanted) + " is not in list");
        },
        self);
  }
  return std::nullopt;
}

}  // namespace

std::optional<Value> FindContainerMethod(const Value& container, const std::string& name) {
  const bool dict = container.Is(Type::kDict);
  if (auto method = dict ? DictMethod(container, name) : SequenceMethod(container, name))
    return method;
  if (container.Is(Type::kTuple)) return std::nullopt;
  const auto mutator = std::find(kMutators.begin(), kMutators.end(), name) - kMutators.begin();
  const bool of_dict = mutator == 1 || mutator == 4 || (mutator >= 8 && mutator <= 10);
  const bool of_list = mutator < 8;
  if (dict ? of_dict : of_list) return Unsafe(container, name);
  return std::nullopt;
}

}  // namespace palu::jinja
