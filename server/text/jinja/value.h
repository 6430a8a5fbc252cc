// What expressions of a template evaluate to: Python's values, as far as templates need them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace palu::jinja {

class Value;
class Dict;
class Context;
struct Args;
struct Callable;
struct Generator;
struct Namespace;
struct Loop;
struct Undefined;

enum class Type {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kGenerator,
  kNamespace,
  kLoop,
  kCallable,
};

// A sequence and how deep its contents nest. Containers are immutable, so that they cannot contain
// themselves; their depth is bounded, so that walking and freeing them may recurse.
struct Sequence {
  std::vector<Value> items;
  int depth = 1;
};

inline constexpr int kMaxValueDepth = 200;
inline constexpr size_t kMaxItems = 1u << 20;  // of any one list

// Cheap to copy: large contents are shared. Not thread-safe across copies of one namespace.
class Value {
 public:
  Value() = default;                                          // None
  Value(bool value) : type_(Type::kBool), data_(value) {}     // NOLINT
  Value(int64_t value) : type_(Type::kInt), data_(value) {}   // NOLINT
  Value(int value) : Value(static_cast<int64_t>(value)) {}    // NOLINT
  Value(double value) : type_(Type::kFloat), data_(value) {}  // NOLINT
  Value(std::string text, bool safe = false)                  // NOLINT
      : type_(Type::kString),
        safe_(safe),
        data_(std::make_shared<const std::string>(std::move(text))) {}
  Value(const char* text) : Value(std::string(text)) {}                                // NOLINT
  Value(std::string_view text, bool safe = false) : Value(std::string(text), safe) {}  // NOLINT
  Value(std::shared_ptr<const Callable> callable)                                      // NOLINT
      : type_(Type::kCallable), data_(std::move(callable)) {}
  Value(std::shared_ptr<Namespace> space)
      : type_(Type::kNamespace), data_(std::move(space)) {}                          // NOLINT
  Value(std::shared_ptr<Loop> loop) : type_(Type::kLoop), data_(std::move(loop)) {}  // NOLINT
  Value(Dict dict);                                                                  // NOLINT

  static Value MakeUndefined(std::string message, const char* kind = "UndefinedError");
  static Value UndefinedName(const std::string& name);
  static Value MakeList(std::vector<Value> items) {
    return MakeSequence(Type::kList, std::move(items));
  }
  static Value MakeTuple(std::vector<Value> items) {
    return MakeSequence(Type::kTuple, std::move(items));
  }
  static Value MakeGenerator(std::vector<Value> items);
  // Throws Error when it nests too deeply.
  static Value FromJson(const nlohmann::ordered_json& json, int depth = 0);

  Type type() const { return type_; }
  bool Is(Type type) const { return type_ == type; }
  bool is_none() const { return type_ == Type::kNone; }
  bool is_undefined() const { return type_ == Type::kUndefined; }
  bool is_string() const { return type_ == Type::kString; }
  bool is_sequence() const { return type_ == Type::kList || type_ == Type::kTuple; }
  bool is_integer() const { return type_ == Type::kInt || type_ == Type::kBool; }
  bool is_number() const { return is_integer() || type_ == Type::kFloat; }
  bool safe() const { return safe_; }  // a string that needs no escaping any more

  // Only for values of that type.
  bool boolean() const { return std::get<bool>(data_); }
  int64_t integer() const;  // of an int or bool
  double number() const;    // of any number
  double real() const { return std::get<double>(data_); }
  const std::string& text() const { return *std::get<std::shared_ptr<const std::string>>(data_); }
  const std::vector<Value>& items() const {
    return std::get<std::shared_ptr<const Sequence>>(data_)->items;
  }
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }
  const Callable& callable() const { return *std::get<std::shared_ptr<const Callable>>(data_); }
  Generator& generator() const { return *std::get<std::shared_ptr<Generator>>(data_); }
  Namespace& name_space() const { return *std::get<std::shared_ptr<Namespace>>(data_); }
  Loop& loop() const { return *std::get<std::shared_ptr<Loop>>(data_); }
  const Undefined& undefined() const { return *std::get<std::shared_ptr<const Undefined>>(data_); }

  bool Truth() const;
  bool IsHashable() const;       // may be a key
  int depth() const;             // 0: no container
  const char* TypeName() const;  // as Python's
  const void* Identity() const;  // of shared contents; nullptr for plain values

 private:
  static Value MakeSequence(Type type, std::vector<Value> items);

  Type type_ = Type::kNone;
  bool safe_ = false;
  std::variant<std::monostate, bool, int64_t, double, std::shared_ptr<const std::string>,
               std::shared_ptr<const Sequence>, std::shared_ptr<const Dict>,
               std::shared_ptr<const Callable>, std::shared_ptr<Generator>,
               std::shared_ptr<Namespace>, std::shared_ptr<Loop>, std::shared_ptr<const Undefined>>
      data_;
};

// Insertion-ordered. Keys are Python's hashable values: text, numbers, none, tuples.
class Dict {
 public:
  void Set(Value key, Value value);  // throws TypeError for a key that cannot be one
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  const std::vector<std::pair<Value, Value>>& entries() const { return entries_; }
  size_t size() const { return entries_.size(); }
  int depth() const { return depth_; }

 private:
  std::vector<std::pair<Value, Value>> entries_;
  std::unordered_map<std::string, size_t> by_key_;
  int depth_ = 1;
};

// What a name stands for that nobody gave: silent when printed, an error in most other uses.
struct Undefined {
  std::string message;
  const char* kind;
};

// What map, select and their like give: to be walked once.
struct Generator {
  std::vector<Value> items;
  bool spent = false;
};

struct Namespace {
  std::unordered_map<std::string, Value> attributes;
  std::vector<std::string> order;
};

struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // The argument by position or name; nullptr where it is not given.
  const Value* Find(size_t position, std::string_view name) const;
  const Value& Need(size_t position, std::string_view name, const char* function) const;
  bool Flag(size_t position, std::string_view name, bool fallback) const;
  int64_t Int(size_t position, std::string_view name, int64_t fallback) const;
  std::string Text(size_t position, std::string_view name, std::string_view fallback) const;
};

struct Callable {
  std::string name;
  std::function<Value(Context&, const Args&)> call;
  int depth = 0;  // of what it holds
};

// [x.attribute for x in y] and the like all walk values this way; throws TypeError for what cannot
// be walked.
std::vector<Value> Iterate(const Value& value);

}  // namespace palu::jinja
