#include <algorithm>
#include <string>

#include "server/text/jinja/access.h"
#include "server/text/jinja/attribute_path.h"
#include "server/text/jinja/error.h"
#include "server/text/jinja/filters.h"
#include "server/text/jinja/operators.h"
#include "server/text/jinja/text_functions.h"
#include "server/text/jinja/value_text.h"

namespace palu::jinja {
namespace {

Value Length(Context&, const Value& value, const Args&) {
  switch (value.type()) {
    case Type::kString:
      return static_cast<int64_t>(CodePointCount(value.text()));
    case Type::kList:
    case Type::kTuple:
      return static_cast<int64_t>(value.items().size());
    case Type::kDict:
      return static_cast<int64_t>(value.dict().size());
    case Type::kUndefined:
      return static_cast<int64_t>(Iterate(value).size());
    default:
      TypeError(std::string("object of type '") + value.TypeName() + "' has no len()");
  }
}

Value First(Context&, const Value& value, const Args&) {
  const std::vector<Value> items = Iterate(value);
  return items.empty() ? Value::MakeUndefined("No first item, sequence was empty.") : items.front();
}

Value Last(Context&, const Value& value, const Args&) {
  const std::vector<Value> items = Iterate(value);
  return items.empty() ? Value::MakeUndefined("No last item, sequence was empty.") : items.back();
}

Value Join(Context& context, const Value& value, const Args& args) {
  const Value* given = args.Find(0, "d");
  const std::string separator = given == nullptr ? "" : Str(*given);
  const std::optional<AttributePath> path = AttributePath::FromArgs(args, 1, "attribute");
  std::string out;
  bool first = true;
  for (const Value& item : Iterate(value)) {
    if (!first) out += separator;
    first = false;
    const std::string text = Str(path ? path->Get(item) : item);
    context.Charge(text.size() + separator.size());
    out += text;
    CheckTextSize(out.size());
  }
  return out;
}

Value Items(Context&, const Value& value, const Args&) {
  if (value.is_undefined()) return Value::MakeGenerator({});
  if (!value.Is(Type::kDict)) TypeError("Can only get item pairs from a mapping.");
  std::vector<Value> items;
  for (const auto& [key, item] : value.dict().entries())
    items.push_back(Value::MakeTuple({key, item}));
  return Value::MakeGenerator(std::move(items));
}

Value Reverse(Context&, const Value& value, const Args&) {
  std::vector<Value> items = Iterate(value);
  std::reverse(items.begin(), items.end());
  if (!value.is_string()) return Value::MakeGenerator(std::move(items));
  std::string text;
  for (const Value& character : items) text += character.text();
  return Value(std::move(text), value.safe());
}

// What sorting and comparing go by.
class SortKey {
 public:
  // listed: keys are lists even of one attribute; items without it then stay as they are.
  SortKey(const Args& args, size_t case_position, size_t attribute_position, bool listed = false)
      : listed_(listed),
        case_sensitive_(args.Flag(case_position, "case_sensitive", false)),
        paths_(AttributePath::ListFromArgs(args, attribute_position, "attribute")) {}

  Value operator()(const Value& item) const {
    if (paths_.empty()) return Fold(item);
    if (paths_.size() == 1 && !listed_) return Fold(paths_[0].Get(item));
    std::vector<Value> keys;
    for (const AttributePath& path : paths_) keys.push_back(Fold(path.Get(item)));
    return Value::MakeTuple(std::move(keys));
  }

 private:
  Value Fold(const Value& value) const {
    return !case_sensitive_ && value.is_string() ? Value(Lower(value.text())) : value;
  }

  bool listed_;
  bool case_sensitive_;
  std::vector<AttributePath> paths_;
};

template <typename Key>
std::vector<Value> Sorted(Context& context, std::vector<Value> items, bool reverse,
                          const Key& key) {
  std::vector<std::pair<Value, Value>> keyed;
  keyed.reserve(items.size());
  for (Value& item : items) {
    Value sort_key = key(item);
    keyed.emplace_back(std::move(sort_key), std::move(item));
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? Less(context, b.first, a.first) : Less(context, a.first, b.first);
  });
  std::vector<Value> out;
  for (auto& [sort_key, item] : keyed) out.push_back(std::move(item));
  return out;
}

Value Sort(Context& context, const Value& value, const Args& args) {
  return Value::MakeList(Sorted(context, Iterate(value), args.Flag(0, "reverse", false),
                                SortKey(args, 1, 2, /*listed=*/true)));
}

Value DictSort(Context& context, const Value& value, const Args& args) {
  if (!value.Is(Type::kDict)) TypeError("dictsort needs a mapping");
  const std::string by = args.Text(1, "by", "key");
  if (by != "key" && by != "value") {
    Fail("FilterArgumentError", "You can only sort by either \"key\" or \"value\"");
  }
  const bool case_sensitive = args.Flag(0, "case_sensitive", false);
  std::vector<Value> items;
  for (const auto& [key, item] : value.dict().entries())
    items.push_back(Value::MakeTuple({key, item}));
  return Value::MakeList(
      Sorted(context, std::move(items), args.Flag(2, "reverse", false), [&](const Value& pair) {
        const Value& key = pair.items()[by == "key" ? 0 : 1];
        return !case_sensitive && key.is_string() ? Value(Lower(key.text())) : key;
      }));
}

Value Unique(Context&, const Value& value, const Args& args) {
  const SortKey key(args, 0, 1);
  Dict seen;
  std::vector<Value> out;
  for (const Value& item : Iterate(value)) {
    const Value item_key = key(item);
    if (seen.Find(item_key) != nullptr) continue;
    seen.Set(item_key, Value());
    out.push_back(item);
  }
  return Value::MakeGenerator(std::move(out));
}

Value Extreme(Context& context, const Value& value, const Args& args, bool max) {
  const std::vector<Value> items = Iterate(value);
  if (items.empty()) return Value::MakeUndefined("No aggregated item, sequence was empty.");
  const SortKey key(args, 0, 1);
  const Value* best = &items[0];
  for (const Value& item : items) {
    const bool better =
        max ? Less(context, key(*best), key(item)) : Less(context, key(item), key(*best));
    if (better) best = &item;
  }
  return *best;
}

Value Sum(Context& context, const Value& value, const Args& args) {
  const std::optional<AttributePath> path = AttributePath::FromArgs(args, 0, "attribute");
  const Value* start = args.Find(1, "start");
  Value total = start == nullptr ? Value(0) : *start;
  for (const Value& item : Iterate(value))
    total = Binary(context, "+", total, path ? path->Get(item) : item);
  return total;
}

Value GroupBy(Context& context, const Value& value, const Args& args) {
  const SortKey key(args, 2, 0);
  const std::vector<Value> items = Sorted(context, Iterate(value), false, key);
  const std::optional<AttributePath> path = AttributePath::FromArgs(args, 0, "attribute");
  if (!path) TypeError("groupby needs an attribute");
  std::vector<Value> groups;
  for (size_t begin = 0; begin < items.size();) {
    const Value group = key(items[begin]);
    size_t end = begin;
    while (end < items.size() && Equals(context, key(items[end]), group)) ++end;
    const auto from = items.begin() + static_cast<std::ptrdiff_t>(begin);
    std::vector<Value> members(from, items.begin() + static_cast<std::ptrdiff_t>(end));
    groups.push_back(
        Value::MakeTuple({path->Get(items[begin]), Value::MakeList(std::move(members))}));
    begin = end;
  }
  return Value::MakeList(std::move(groups));
}

Value Batch(Context& context, const Value& value, const Args& args) {
  const int64_t size = args.Int(0, "linecount", 0);
  const Value* fill = args.Find(1, "fill_with");
  std::vector<Value> batches;
  std::vector<Value> batch;
  for (const Value& item : Iterate(value)) {
    if (static_cast<int64_t>(batch.size()) == size)
      batches.push_back(Value::MakeList(std::exchange(batch, {})));
    batch.push_back(item);
  }
  if (!batch.empty()) {
    while (fill != nullptr && !fill->is_none() && static_cast<int64_t>(batch.size()) < size) {
      context.Charge(sizeof(Value));
      batch.push_back(*fill);
    }
    batches.push_back(Value::MakeList(std::move(batch)));
  }
  return Value::MakeGenerator(std::move(batches));
}

Value Slices(Context& context, const Value& value, const Args& args) {
  const int64_t count = args.Int(0, "slices", 0);
  if (count <= 0) Fail("ZeroDivisionError", "integer division or modulo by zero");
  const Value* fill = args.Find(1, "fill_with");
  const std::vector<Value> items = Iterate(value);
  const int64_t each = static_cast<int64_t>(items.size()) / count;
  const int64_t longer = static_cast<int64_t>(items.size()) % count;
  std::vector<Value> slices;
  size_t next = 0;
  for (int64_t i = 0; i < count; ++i) {
    context.Step();
    std::vector<Value> slice;
    for (int64_t n = each + (i < longer ? 1 : 0); n > 0; --n) slice.push_back(items[next++]);
    if (fill != nullptr && !fill->is_none() && i >= longer) slice.push_back(*fill);
    slices.push_back(Value::MakeList(std::move(slice)));
  }
  return Value::MakeGenerator(std::move(slices));
}

Value Default(Context&, const Value& value, const Args& args) {
  const bool boolean = args.Flag(1, "boolean", false);
  if (!value.is_undefined() && !(boolean && !value.Truth())) return value;
  const Value* fallback = args.Find(0, "default_value");
  return fallback == nullptr ? Value("") : *fallback;
}

constexpr NamedFilter kFilters[] = {
    {"length", Length},
    {"count", Length},
    {"first", First},
    {"last", Last},
    {"join", Join},
    {"items", Items},
    {"reverse", Reverse},
    {"sort", Sort},
    {"dictsort", DictSort},
    {"unique", Unique},
    {"min", [](Context& c, const Value& v, const Args& a) { return Extreme(c, v, a, false); }},
    {"max", [](Context& c, const Value& v, const Args& a) { return Extreme(c, v, a, true); }},
    {"sum", Sum},
    {"groupby", GroupBy},
    {"batch", Batch},
    {"slice", Slices},
    {"default", Default},
    {"d", Default},
    {"list", [](Context&, const Value& v, const Args&) { return Value::MakeList(Iterate(v)); }},
    {"attr", [](Context&, const Value& v,
                const Args& a) { return GetAttribute(v, a.Text(0, "name", "")); }},
};

}  // namespace

Filter FindSequenceFilter(std::string_view name) {
  for (const NamedFilter& one : kFilters) {
    if (one.name == name) return one.filter;
  }
  return nullptr;
}

}  // namespace palu::jinja
