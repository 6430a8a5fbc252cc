// A compiled grammar: rules that are automata over bytes and may call each other.
#pragma once

#include <cstdint>
#include <vector>

#include "server/structured/text_classes.h"

namespace palu::structured {

// Larger than any distance that is reached; sums of two still fit.
inline constexpr int32_t kUnreachable = 1 << 29;

// A pushdown automaton. Each rule is a deterministic automaton over bytes whose nodes may also call
// rules: the called rule has to match min to max times in a row before the node behind is reached.
// Plain data, immutable once it was built, and then no node is a dead end: every node that an edge
// or call leads to can still reach the end of its rule.
struct Grammar {
  struct Edge {
    uint8_t first = 0;
    uint8_t last = 0;  // included
    int32_t to = 0;
  };
  struct Call {
    int32_t rule = 0;
    int32_t next = 0;  // node behind it
    int32_t min = 1;
    int32_t max = 1;  // -1: no limit
    bool once() const { return min == 1 && max == 1; }
  };
  struct Node {
    int32_t edges_begin = 0, edges_end = 0;  // of edges, sorted by first
    int32_t calls_begin = 0, calls_end = 0;  // of calls
    int32_t distance = kUnreachable;         // fewest bytes to the end of the rule
    bool accept = false;                     // the rule may end here
    // Every character of these leads from here to here.
    TextClasses loops = 0;
    // Nothing but the end of the rule follows.
    bool is_end() const { return accept && edges_begin == edges_end && calls_begin == calls_end; }
  };
  struct Rule {
    int32_t start = 0;  // node
    // Of a rule that is repeated: every character of these can be all of it.
    TextClasses chars = 0;
  };

  std::vector<Node> nodes;
  std::vector<Edge> edges;
  std::vector<Call> calls;
  std::vector<Rule> rules;
  int32_t root = 0;  // of rules

  int32_t RuleDistance(int32_t rule) const {
    return nodes[static_cast<size_t>(rules[static_cast<size_t>(rule)].start)].distance;
  }
};

}  // namespace palu::structured
