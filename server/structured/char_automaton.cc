#include "server/structured/char_automaton.h"

#include <algorithm>
#include <map>
#include <utility>

namespace palu::structured {
namespace {

using StateSet = std::vector<int>;

// Visits of states while an automaton is made deterministic; some seconds at the very worst.
constexpr size_t kMaxWork = 20'000'000;

Status TooLarge() {
  return InvalidArgument("is too complex: its automaton has more than " +
                         std::to_string(kMaxCharStates) + " states");
}

// Follows edges without characters; remembers what it has visited by the number of the walk.
class Walker {
 public:
  explicit Walker(const CharNfa& nfa) : nfa_(nfa), seen_(nfa.states().size()) {}

  StateSet Closure(const StateSet& states) {
    ++walk_;
    StateSet closed;
    const auto visit = [&](int state) {
      if (seen_[static_cast<size_t>(state)] == walk_) return;
      seen_[static_cast<size_t>(state)] = walk_;
      closed.push_back(state);
    };
    for (const int state : states) visit(state);
    for (size_t i = 0; i < closed.size(); ++i) {
      for (const int next : nfa_.states()[static_cast<size_t>(closed[i])].epsilon) visit(next);
    }
    work_ += closed.size();
    std::sort(closed.begin(), closed.end());
    return closed;
  }

  // Adds what is reached over an anchor; twice, as an anchor may stand behind another one.
  StateSet PassAnchor(StateSet states, CodePoint anchor) {
    for (int i = 0; i < 2; ++i) {
      StateSet targets;
      for (const int state : states) {
        for (const CharNfa::Edge& edge : nfa_.states()[static_cast<size_t>(state)].edges) {
          if (edge.range.first == anchor) targets.push_back(edge.to);
        }
      }
      if (targets.empty()) break;
      targets.insert(targets.end(), states.begin(), states.end());
      states = Closure(targets);
    }
    return states;
  }

  size_t work() const { return work_; }

 private:
  const CharNfa& nfa_;
  std::vector<uint64_t> seen_;
  uint64_t walk_ = 0;
  size_t work_ = 0;
};

// The ranges between which no edge begins or ends, each with the states it leads to.
std::vector<std::pair<CodeRange, StateSet>> Split(const CharNfa& nfa, const StateSet& states) {
  std::vector<CodePoint> cuts;
  std::vector<CharNfa::Edge> edges;
  for (const int state : states) {
    for (const CharNfa::Edge& edge : nfa.states()[static_cast<size_t>(state)].edges) {
      if (edge.range.first > kLastCodePoint) continue;
      edges.push_back(edge);
      cuts.push_back(edge.range.first);
      cuts.push_back(edge.range.last + 1);
    }
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  std::vector<StateSet> targets(cuts.size());
  for (const CharNfa::Edge& edge : edges) {
    auto i = static_cast<size_t>(std::lower_bound(cuts.begin(), cuts.end(), edge.range.first) -
                                 cuts.begin());
    for (; i < cuts.size() && cuts[i] <= edge.range.last; ++i) targets[i].push_back(edge.to);
  }
  std::vector<std::pair<CodeRange, StateSet>> pieces;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    if (targets[i].empty()) continue;
    std::sort(targets[i].begin(), targets[i].end());
    targets[i].erase(std::unique(targets[i].begin(), targets[i].end()), targets[i].end());
    pieces.emplace_back(CodeRange{cuts[i], cuts[i + 1] - 1}, std::move(targets[i]));
  }
  return pieces;
}

void AppendEdge(CodeRange range, int to, std::vector<CharDfa::Edge>* edges) {
  if (!edges->empty() && edges->back().to == to && edges->back().range.last + 1 == range.first) {
    edges->back().range.last = range.last;
  } else {
    edges->push_back({range, to});
  }
}

// Drops states that lead nowhere and numbers the others anew; the start stays 0.
CharDfa Trim(const CharDfa& dfa) {
  std::vector<std::vector<int>> sources(dfa.states.size());
  std::vector<int> open;
  std::vector<bool> useful(dfa.states.size());
  for (size_t s = 0; s < dfa.states.size(); ++s) {
    for (const CharDfa::Edge& edge : dfa.states[s].edges) {
      sources[static_cast<size_t>(edge.to)].push_back(static_cast<int>(s));
    }
    if (!dfa.states[s].accept) continue;
    useful[s] = true;
    open.push_back(static_cast<int>(s));
  }
  while (!open.empty()) {
    const auto state = static_cast<size_t>(open.back());
    open.pop_back();
    for (const int source : sources[state]) {
      if (useful[static_cast<size_t>(source)]) continue;
      useful[static_cast<size_t>(source)] = true;
      open.push_back(source);
    }
  }
  std::vector<int> number(dfa.states.size(), -1);
  int next = 1;
  number[0] = 0;
  for (size_t s = 1; s < dfa.states.size(); ++s) {
    if (useful[s]) number[s] = next++;
  }
  CharDfa result;
  result.states.resize(static_cast<size_t>(next));
  for (size_t s = 0; s < dfa.states.size(); ++s) {
    if (number[s] < 0) continue;
    CharDfa::State& state = result.states[static_cast<size_t>(number[s])];
    state.accept = dfa.states[s].accept;
    for (const CharDfa::Edge& edge : dfa.states[s].edges) {
      if (useful[static_cast<size_t>(edge.to)]) {
        AppendEdge(edge.range, number[static_cast<size_t>(edge.to)], &state.edges);
      }
    }
  }
  return result;
}

const CharDfa::Edge* Find(const CharDfa::State& state, CodePoint code) {
  const auto it =
      std::lower_bound(state.edges.begin(), state.edges.end(), code,
                       [](const CharDfa::Edge& edge, CodePoint c) { return edge.range.last < c; });
  return it != state.edges.end() && it->range.first <= code ? &*it : nullptr;
}

// Product of two automata; with subtract, b accepts what is left out. b's state -1: it has refused.
class Product {
 public:
  Product(const CharDfa& a, const CharDfa& b, bool subtract) : a_(a), b_(b), subtract_(subtract) {}

  Result<CharDfa> Build() {
    Number({0, 0});
    for (size_t s = 0; s < pairs_.size(); ++s) {
      if (pairs_.size() > kMaxCharStates) return tl::unexpected(TooLarge());
      AddEdges(s);
    }
    return Trim(result_);
  }

 private:
  using Pair = std::pair<int, int>;

  int Number(Pair pair) {
    const auto [it, added] = numbers_.emplace(pair, static_cast<int>(pairs_.size()));
    if (added) {
      pairs_.push_back(pair);
      const bool b_accepts = pair.second >= 0 && b_.states[static_cast<size_t>(pair.second)].accept;
      result_.states.emplace_back().accept =
          a_.states[static_cast<size_t>(pair.first)].accept && b_accepts != subtract_;
    }
    return it->second;
  }

  void AddEdges(size_t s) {
    const auto [x, y] = pairs_[s];
    for (const CharDfa::Edge& edge : a_.states[static_cast<size_t>(x)].edges) {
      CodePoint next = edge.range.first;
      const auto pass = [&](CodePoint last, int target) {
        if (next > last || (target < 0 && !subtract_)) return;
        const int to = Number({edge.to, target});
        AppendEdge({next, last}, to, &result_.states[s].edges);
      };
      if (y >= 0) {
        for (const CharDfa::Edge& other : b_.states[static_cast<size_t>(y)].edges) {
          if (other.range.last < next) continue;
          if (other.range.first > edge.range.last) break;
          if (other.range.first > next) {
            pass(other.range.first - 1, -1);
            next = other.range.first;
          }
          const CodePoint last = std::min(edge.range.last, other.range.last);
          pass(last, other.to);
          next = last + 1;
        }
      }
      pass(edge.range.last, -1);
    }
  }

  const CharDfa& a_;
  const CharDfa& b_;
  const bool subtract_;
  std::map<Pair, int> numbers_;
  std::vector<Pair> pairs_;
  CharDfa result_;
};

}  // namespace

int CharNfa::AddState() {
  states_.emplace_back();
  return static_cast<int>(states_.size()) - 1;
}

int CharNfa::AddSet(int from, const CodeSet& set) {
  const int to = AddState();
  for (const CodeRange& range : set.ranges()) AddEdge(from, range, to);
  return to;
}

int CharNfa::AddCode(int from, CodePoint code) {
  const int to = AddState();
  AddEdge(from, {code, code}, to);
  return to;
}

int CharNfa::AddText(int from, std::string_view ascii) {
  for (const char c : ascii) from = AddCode(from, static_cast<unsigned char>(c));
  return from;
}

bool CharDfa::Matches(const std::vector<CodePoint>& text) const {
  int state = 0;
  for (const CodePoint code : text) {
    const Edge* edge = Find(states[static_cast<size_t>(state)], code);
    if (edge == nullptr) return false;
    state = edge->to;
  }
  return states[static_cast<size_t>(state)].accept;
}

bool CharDfa::empty() const {
  return std::none_of(states.begin(), states.end(), [](const State& s) { return s.accept; });
}

Result<CharDfa> Determinize(const CharNfa& nfa, int start, int accept) {
  Walker walker(nfa);
  std::map<StateSet, int> numbers;
  std::vector<const StateSet*> sets;
  const auto number = [&](StateSet set) {
    const auto [it, added] = numbers.emplace(std::move(set), static_cast<int>(sets.size()));
    if (added) sets.push_back(&it->first);
    return it->second;
  };
  number(walker.PassAnchor(walker.Closure({start}), kTextBegin));
  CharDfa dfa;
  for (size_t s = 0; s < sets.size(); ++s) {
    if (sets.size() > kMaxCharStates || walker.work() > kMaxWork) {
      return tl::unexpected(TooLarge());
    }
    const StateSet& set = *sets[s];
    CharDfa::State state;
    const StateSet ends = walker.PassAnchor(set, kTextEnd);
    state.accept = std::binary_search(ends.begin(), ends.end(), accept);
    for (const auto& [range, targets] : Split(nfa, set)) {
      AppendEdge(range, number(walker.Closure(targets)), &state.edges);
    }
    dfa.states.push_back(std::move(state));
  }
  return Trim(dfa);
}

Result<CharDfa> Intersect(const CharDfa& a, const CharDfa& b) {
  return Product(a, b, false).Build();
}

Result<CharDfa> Subtract(const CharDfa& a, const CharDfa& b) { return Product(a, b, true).Build(); }

Result<CharDfa> Repeated(const CodeSet& set, int64_t min, int64_t max) {
  const int64_t last = max < 0 ? min : max;
  if (last >= static_cast<int64_t>(kMaxCharStates)) return tl::unexpected(TooLarge());
  CharDfa dfa;
  dfa.states.resize(static_cast<size_t>(last) + 1);
  for (int64_t i = 0; i <= last; ++i) {
    CharDfa::State& state = dfa.states[static_cast<size_t>(i)];
    state.accept = i >= min;
    if (i == last && max >= 0) break;
    for (const CodeRange& range : set.ranges()) {
      state.edges.push_back({range, static_cast<int>(std::min(i + 1, last))});
    }
  }
  return dfa;
}

CharDfa OneOf(const std::vector<std::vector<CodePoint>>& texts) {
  CharDfa dfa;
  dfa.states.emplace_back();
  for (const std::vector<CodePoint>& text : texts) {
    size_t state = 0;
    for (const CodePoint code : text) {
      if (const CharDfa::Edge* edge = Find(dfa.states[state], code)) {
        state = static_cast<size_t>(edge->to);
        continue;
      }
      const size_t next = dfa.states.size();
      auto& edges = dfa.states[state].edges;
      const auto place = std::lower_bound(
          edges.begin(), edges.end(), code,
          [](const CharDfa::Edge& edge, CodePoint c) { return edge.range.last < c; });
      edges.insert(place, {{code, code}, static_cast<int>(next)});
      dfa.states.emplace_back();
      state = next;
    }
    dfa.states[state].accept = true;
  }
  return dfa;
}

}  // namespace palu::structured
