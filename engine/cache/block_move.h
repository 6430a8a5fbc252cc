// Copies of whole cache blocks that a step makes before it runs.
#pragma once

#include <cstdint>

namespace palu {

// Made strictly in the order in which they are listed: a block or host slot may be the source of
// one move and the target of a later one.
struct BlockMove {
  enum class Kind : uint8_t {
    kCopy,    // device block -> device block (copy-on-write)
    kToHost,  // device block -> host slot
    kToDevice,
  };
  Kind kind = Kind::kCopy;
  int32_t from = -1;
  int32_t to = -1;

  bool operator==(const BlockMove&) const = default;
};

}  // namespace palu
