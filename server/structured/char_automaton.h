// Finite automata over characters: what regular expressions, number ranges and string lengths
// become before they are spelled in bytes.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/status.h"
#include "server/structured/code_set.h"

namespace palu::structured {

// Stand before the first and after the last character; what ^ and $ consume.
inline constexpr CodePoint kTextBegin = kLastCodePoint + 1;
inline constexpr CodePoint kTextEnd = kLastCodePoint + 2;

// Non-deterministic, built piece by piece: every Add… goes from a state and returns the one behind.
class CharNfa {
 public:
  struct Edge {
    CodeRange range;
    int to = 0;
  };
  struct State {
    std::vector<Edge> edges;
    std::vector<int> epsilon;
  };

  int AddState();
  int AddSet(int from, const CodeSet& set);
  int AddCode(int from, CodePoint code);
  int AddText(int from, std::string_view ascii);
  void AddEpsilon(int from, int to) { states_[static_cast<size_t>(from)].epsilon.push_back(to); }
  void AddEdge(int from, CodeRange range, int to) {
    states_[static_cast<size_t>(from)].edges.push_back({range, to});
  }

  const std::vector<State>& states() const { return states_; }

 private:
  std::vector<State> states_;
};

// Deterministic; state 0 is the start. A character without an edge is refused.
struct CharDfa {
  struct Edge {
    CodeRange range;
    int to = 0;
  };
  struct State {
    std::vector<Edge> edges;  // sorted, disjoint
    bool accept = false;
  };
  std::vector<State> states;

  bool Matches(const std::vector<CodePoint>& text) const;
  // No text is accepted.
  bool empty() const;
};

// Most states that an automaton may have; beyond, building fails.
inline constexpr size_t kMaxCharStates = 10000;

// kInvalidArgument when it gets too large.
Result<CharDfa> Determinize(const CharNfa& nfa, int start, int accept);
// Texts that both accept. States from which nothing can be accepted are left out.
Result<CharDfa> Intersect(const CharDfa& a, const CharDfa& b);
// Texts that a accepts and b does not.
Result<CharDfa> Subtract(const CharDfa& a, const CharDfa& b);
// Texts over the set of min to max characters; max < 0: any number.
Result<CharDfa> Repeated(const CodeSet& set, int64_t min, int64_t max);
// The given texts, and nothing else.
CharDfa OneOf(const std::vector<std::vector<CodePoint>>& texts);

}  // namespace palu::structured
