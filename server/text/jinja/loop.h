// The variable `loop`.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "server/text/jinja/value.h"

namespace palu::jinja {

// One running for statement. Owned by it; used by one thread.
struct Loop {
  std::vector<Value> items;
  size_t index = 0;  // of the current item
  int depth = 1;
  std::optional<Value> last_changed;           // what loop.changed() saw last
  std::function<Value(const Value&)> recurse;  // empty unless the loop is recursive
};

// loop.index and the like; nothing for a name it does not have.
std::optional<Value> LoopAttribute(const Value& loop, const std::string& name);

}  // namespace palu::jinja
