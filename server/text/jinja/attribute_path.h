// attribute='a.b.0' arguments of filters.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "server/text/jinja/value.h"

namespace palu::jinja {

// Steps from an item to what a filter looks at. Immutable.
class AttributePath {
 public:
  // Nothing when the argument is not given or none.
  static std::optional<AttributePath> FromArgs(const Args& args, size_t position,
                                               std::string_view name);
  // Several, with commas between them.
  static std::vector<AttributePath> ListFromArgs(const Args& args, size_t position,
                                                 std::string_view name);

  // fallback: instead of an undefined step; nullptr: undefined stays.
  Value Get(const Value& item, const Value* fallback = nullptr) const;

 private:
  explicit AttributePath(const Value& spec);
  explicit AttributePath(std::string_view dotted);

  std::vector<Value> steps_;
};

}  // namespace palu::jinja
