#include "server/text/jinja/value.h"

#include <algorithm>

#include "server/text/jinja/error.h"
#include "server/text/jinja/value_text.h"
#include "server/text/utf8.h"

namespace palu::jinja {
namespace {

int NestedDepth(const Value& value, int depth) {
  const int nested = value.depth() + 1;
  if (nested > kMaxValueDepth) Fail("RecursionError", "a value nests too deeply");
  return std::max(depth, nested);
}

// One text for keys that are equal in Python (1, 1.0 and true), different for all others.
std::string KeyText(const Value& key) {
  switch (key.type()) {
    case Type::kString:
      return "s" + key.text();
    case Type::kBool:
    case Type::kInt:
      return "n" + std::to_string(key.integer());
    case Type::kFloat: {
      const double number = key.real();
      const bool whole = number >= -9e15 && number <= 9e15 &&
                         number == static_cast<double>(static_cast<int64_t>(number));
      return "n" + (whole ? std::to_string(static_cast<int64_t>(number)) : Repr(key));
    }
    case Type::kNone:
      return "z";
    case Type::kTuple: {
      std::string text = "t";
      for (const Value& item : key.items()) {
        const std::string part = KeyText(item);
        text += std::to_string(part.size()) + ":" + part;
        if (text.size() > kMaxTextBytes) Fail("OverflowError", "a key is too large");
      }
      return text;
    }
    case Type::kUndefined:
      return "u";
    default:
      TypeError(std::string("unhashable type: '") + key.TypeName() + "'");
  }
}

}  // namespace

Value::Value(Dict dict)
    : type_(Type::kDict), data_(std::make_shared<const Dict>(std::move(dict))) {}

Value Value::MakeUndefined(std::string message, const char* kind) {
  Value value;
  value.type_ = Type::kUndefined;
  value.data_ = std::make_shared<const Undefined>(Undefined{std::move(message), kind});
  return value;
}

Value Value::UndefinedName(const std::string& name) {
  return MakeUndefined(Repr(Value(name)) + " is undefined");
}

bool Value::IsHashable() const {
  if (type_ == Type::kTuple) {
    return std::all_of(items().begin(), items().end(),
                       [](const Value& item) { return item.IsHashable(); });
  }
  return type_ != Type::kList && depth() == 0;
}

Value Value::MakeSequence(Type type, std::vector<Value> items) {
  if (items.size() > kMaxItems) Fail("OverflowError", "a list is too long");
  auto sequence = std::make_shared<Sequence>();
  for (const Value& item : items) sequence->depth = NestedDepth(item, sequence->depth);
  sequence->items = std::move(items);
  Value value;
  value.type_ = type;
  value.data_ = std::shared_ptr<const Sequence>(std::move(sequence));
  return value;
}

Value Value::MakeGenerator(std::vector<Value> items) {
  for (const Value& item : items) NestedDepth(item, 0);
  Value value;
  value.type_ = Type::kGenerator;
  value.data_ = std::make_shared<Generator>(Generator{std::move(items)});
  return value;
}

Value Value::FromJson(const nlohmann::ordered_json& json, int depth) {
  if (depth >= kMaxValueDepth) Fail("RecursionError", "a value nests too deeply");
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return json.get<double>();
  }
  if (json.is_number_integer()) return json.get<int64_t>();
  if (json.is_number_float()) return json.get<double>();
  if (json.is_string()) return ReplaceInvalidUtf8(json.get_ref<const std::string&>());
  if (json.is_array()) {
    std::vector<Value> items;
    items.reserve(json.size());
    for (const auto& item : json) items.push_back(FromJson(item, depth + 1));
    return MakeList(std::move(items));
  }
  if (json.is_object()) {
    Dict dict;
    for (const auto& [key, item] : json.items())
      dict.Set(ReplaceInvalidUtf8(key), FromJson(item, depth + 1));
    return dict;
  }
  return {};
}

int64_t Value::integer() const {
  return type_ == Type::kBool ? static_cast<int64_t>(boolean()) : std::get<int64_t>(data_);
}

double Value::number() const {
  return type_ == Type::kFloat ? real() : static_cast<double>(integer());
}

bool Value::Truth() const {
  switch (type_) {
    case Type::kUndefined:
    case Type::kNone:
      return false;
    case Type::kBool:
    case Type::kInt:
      return integer() != 0;
    case Type::kFloat:
      return real() != 0;
    case Type::kString:
      return !text().empty();
    case Type::kList:
    case Type::kTuple:
      return !items().empty();
    case Type::kDict:
      return dict().size() > 0;
    default:
      return true;
  }
}

int Value::depth() const {
  if (is_sequence()) return std::get<std::shared_ptr<const Sequence>>(data_)->depth;
  if (type_ == Type::kDict) return dict().depth();
  if (type_ == Type::kCallable) return callable().depth;
  // Its items nest less than a container's; one level stands for the generator itself.
  if (type_ == Type::kGenerator) {
    int depth = 1;
    for (const Value& item : generator().items) depth = std::max(depth, item.depth() + 1);
    return depth;
  }
  return 0;
}

const char* Value::TypeName() const {
  switch (type_) {
    case Type::kUndefined:
      return "Undefined";
    case Type::kNone:
      return "NoneType";
    case Type::kBool:
      return "bool";
    case Type::kInt:
      return "int";
    case Type::kFloat:
      return "float";
    case Type::kString:
      return safe_ ? "Markup" : "str";
    case Type::kList:
      return "list";
    case Type::kTuple:
      return "tuple";
    case Type::kDict:
      return "dict";
    case Type::kGenerator:
      return "generator";
    case Type::kNamespace:
      return "Namespace";
    case Type::kLoop:
      return "LoopContext";
    case Type::kCallable:
      return "function";
  }
  return "object";
}

const void* Value::Identity() const {
  return std::visit(
      [](const auto& data) -> const void* {
        if constexpr (requires { data.get(); }) {
          return data.get();
        } else {
          return nullptr;
        }
      },
      data_);
}

void Dict::Set(Value key, Value value) {
  depth_ = NestedDepth(value, NestedDepth(key, depth_));
  const auto [slot, fresh] = by_key_.emplace(KeyText(key), entries_.size());
  if (fresh) {
    entries_.emplace_back(std::move(key), std::move(value));
  } else {
    entries_[slot->second].second = std::move(value);
  }
}

const Value* Dict::Find(const Value& key) const {
  const auto found = by_key_.find(KeyText(key));
  return found == by_key_.end() ? nullptr : &entries_[found->second].second;
}

const Value* Dict::Find(std::string_view key) const {
  const auto found = by_key_.find("s" + std::string(key));
  return found == by_key_.end() ? nullptr : &entries_[found->second].second;
}

const Value* Args::Find(size_t position, std::string_view name) const {
  if (position < positional.size()) return &positional[position];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

const Value& Args::Need(size_t position, std::string_view name, const char* function) const {
  const Value* value = Find(position, name);
  if (value == nullptr) {
    TypeError(std::string(function) + "() missing 1 required positional argument: '" +
              std::string(name) + "'");
  }
  return *value;
}

bool Args::Flag(size_t position, std::string_view name, bool fallback) const {
  const Value* value = Find(position, name);
  return value == nullptr ? fallback : value->Truth();
}

int64_t Args::Int(size_t position, std::string_view name, int64_t fallback) const {
  const Value* value = Find(position, name);
  if (value == nullptr || value->is_none()) return fallback;
  if (!value->is_integer()) {
    TypeError(std::string("'") + value->TypeName() +
              "' object cannot be interpreted as an integer");
  }
  return value->integer();
}

std::string Args::Text(size_t position, std::string_view name, std::string_view fallback) const {
  const Value* value = Find(position, name);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) TypeError(std::string("expected str, got ") + value->TypeName());
  return value->text();
}

std::vector<Value> Iterate(const Value& value) {
  switch (value.type()) {
    case Type::kList:
    case Type::kTuple:
      return value.items();
    case Type::kGenerator: {
      Generator& generator = value.generator();
      if (std::exchange(generator.spent, true)) return {};
      return generator.items;
    }
    case Type::kString: {
      std::vector<Value> characters;
      const std::string& text = value.text();
      for (size_t pos = 0; pos < text.size();) {
        const size_t begin = pos;
        NextCodePoint(text, &pos);
        characters.emplace_back(text.substr(begin, pos - begin));
      }
      return characters;
    }
    case Type::kDict: {
      std::vector<Value> keys;
      for (const auto& [key, item] : value.dict().entries()) keys.push_back(key);
      return keys;
    }
    case Type::kUndefined:
      return {};
    default:
      TypeError(std::string("'") + value.TypeName() + "' object is not iterable");
  }
}

}  // namespace palu::jinja
