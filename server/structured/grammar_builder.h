// Puts a grammar together from bytes, texts, automata and calls.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "engine/status.h"
#include "server/structured/char_automaton.h"
#include "server/structured/grammar.h"

namespace palu::structured {

// How characters are spelled in bytes.
enum class Spelling {
  kPlain,       // UTF-8
  kJsonString,  // as within a JSON string: what must be escaped is, in one way
};

// A node of a rule under construction. Rules are made of nodes with edges that read a byte,
// nothing, or a call; every Add… goes from a node and returns the node behind. One thread at a
// time.
class GrammarBuilder {
 public:
  // A rule to be defined later, so that it can be called before.
  int NewRule();
  // start and end are nodes of this builder, which no other rule uses.
  void Define(int rule, int start, int end);

  int NewNode();
  int AddBytes(int from, uint8_t first, uint8_t last);
  int AddText(int from, std::string_view text);
  int AddChars(int from, const CodeSet& set, Spelling spelling);
  int AddDfa(int from, const CharDfa& dfa, Spelling spelling);
  int AddCall(int from, int rule, int32_t min = 1, int32_t max = 1);
  void AddEmpty(int from, int to) { nodes_[static_cast<size_t>(from)].empty.push_back(to); }

  size_t size() const { return nodes_.size(); }

  // Makes every rule that root needs deterministic, measures distances and cuts off dead ends.
  // kInvalidArgument: nothing matches, a rule calls itself before it reads anything, or it got too
  // large.
  Result<std::shared_ptr<const Grammar>> Finish(int root) const;

 private:
  friend class RuleDeterminizer;
  struct Edge {
    uint8_t first, last;
    int32_t to;
  };
  struct Node {
    std::vector<Edge> edges;
    std::vector<int32_t> empty;
    std::vector<Grammar::Call> calls;
  };
  struct Rule {
    int32_t start = -1, end = -1;
  };

  std::vector<Node> nodes_;
  std::vector<Rule> rules_;
};

}  // namespace palu::structured
