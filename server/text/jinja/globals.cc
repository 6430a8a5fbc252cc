#include "server/text/jinja/globals.h"

#include <array>
#include <ctime>
#include <memory>

#include "server/text/jinja/access.h"
#include "server/text/jinja/error.h"
#include "server/text/jinja/value_text.h"
#include "server/text/utf8.h"

namespace palu::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // Jinja's own sandbox has the same

Value Range(Context& context, const Args& args) {
  if (args.positional.empty() || args.positional.size() > 3)
    TypeError("range expected 1 to 3 arguments");
  for (const Value& arg : args.positional) {
    if (!arg.is_integer()) {
      TypeError(std::string("'") + arg.TypeName() + "' object cannot be interpreted as an integer");
    }
  }
  const bool one = args.positional.size() == 1;
  const int64_t start = one ? 0 : args.positional[0].integer();
  const int64_t stop = args.positional[one ? 0 : 1].integer();
  const int64_t step = args.positional.size() == 3 ? args.positional[2].integer() : 1;
  if (step == 0) Fail("ValueError", "range() arg 3 must not be zero");
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) >= kMaxRange) {
      Fail("OverflowError",
           "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
    }
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  context.Charge(items.size() * sizeof(Value));
  return Value::MakeList(std::move(items));
}

// dict(mapping or pairs, name=value…)
Dict MakeDict(const Args& args) {
  Dict dict;
  if (!args.positional.empty()) {
    const Value& from = args.positional[0];
    if (from.Is(Type::kDict)) {
      dict = from.dict();
    } else {
      for (const Value& pair : Iterate(from)) {
        const std::vector<Value> parts = Iterate(pair);
        if (parts.size() != 2)
          Fail("ValueError", "dictionary update sequence element has not length 2");
        dict.Set(parts[0], parts[1]);
      }
    }
  }
  for (const auto& [name, value] : args.named) dict.Set(name, value);
  return dict;
}

Value MakeNamespace(Context& context, const Args& args) {
  const std::shared_ptr<Namespace> space = context.NewNamespace();
  const Dict initial = MakeDict(args);
  for (const auto& [key, value] : initial.entries()) {
    const std::string name = Str(key);
    if (space->attributes.insert_or_assign(name, value).second) space->order.push_back(name);
  }
  return space;
}

Value MakeJoiner(Context&, const Args& args) {
  const std::string separator = args.Text(0, "sep", ", ");
  auto used = std::make_shared<bool>(false);
  return MakeCallable("joiner", [separator, used](Context&, const Args&) -> Value {
    return std::exchange(*used, true) ? separator : "";
  });
}

// Its next() alone; what else a cycler has, no chat template uses.
Value MakeCycler(Context&, const Args& args) {
  if (args.positional.empty()) TypeError("at least one item has to be provided");
  auto next = std::make_shared<size_t>(0);
  Dict cycler;
  cycler.Set("next", MakeCallable(
                         "next",
                         [items = args.positional, next](Context&, const Args&) {
                           return items[(*next)++ % items.size()];
                         },
                         Value::MakeTuple(args.positional)));
  return cycler;
}

Value RaiseException(Context&, const Args& args) {
  Fail("TemplateError", Str(args.Need(0, "message", "raise_exception")));
}

Value StrftimeNow(Context& context, const Args& args) {
  const std::string format = args.Text(0, "format", "");
  if (format.size() > 256) Fail("ValueError", "a time format is too long");
  std::tm local{};
  const std::time_t now = context.now();
  localtime_r(&now, &local);
  std::array<char, 4096> buffer;
  const size_t size = std::strftime(buffer.data(), buffer.size(), format.c_str(), &local);
  return ReplaceInvalidUtf8(std::string_view(buffer.data(), size));
}

}  // namespace

std::optional<Value> FindGlobal(const std::string& name) {
  if (name == "range") return MakeCallable(name, Range);
  if (name == "dict") {
    return MakeCallable(name, [](Context&, const Args& args) -> Value { return MakeDict(args); });
  }
  if (name == "namespace") return MakeCallable(name, MakeNamespace);
  if (name == "joiner") return MakeCallable(name, MakeJoiner);
  if (name == "cycler") return MakeCallable(name, MakeCycler);
  if (name == "raise_exception") return MakeCallable(name, RaiseException);
  if (name == "strftime_now") return MakeCallable(name, StrftimeNow);
  return std::nullopt;
}

}  // namespace palu::jinja
