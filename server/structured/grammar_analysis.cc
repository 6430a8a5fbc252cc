#include "server/structured/grammar_analysis.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "server/structured/grammar_runs.h"

namespace palu::structured {
namespace {

int32_t Sum(int64_t a, int64_t b) {
  return static_cast<int32_t>(std::min<int64_t>(a + b, kUnreachable));
}

int32_t CallDistance(const Grammar& g, const Grammar::Call& call) {
  const int64_t next = g.nodes[static_cast<size_t>(call.next)].distance;
  if (call.min == 0) return Sum(next, 0);
  return Sum(int64_t{call.min} * g.RuleDistance(call.rule), next);
}

int32_t NodeDistance(const Grammar& g, const Grammar::Node& node) {
  if (node.accept) return 0;
  int32_t best = kUnreachable;
  for (int32_t i = node.edges_begin; i < node.edges_end; ++i) {
    const auto to = static_cast<size_t>(g.edges[static_cast<size_t>(i)].to);
    best = std::min(best, Sum(1, g.nodes[to].distance));
  }
  for (int32_t i = node.calls_begin; i < node.calls_end; ++i) {
    best = std::min(best, CallDistance(g, g.calls[static_cast<size_t>(i)]));
  }
  return best;
}

// Lowers distances until none can be lowered.
void MeasureDistances(Grammar* g) {
  std::vector<std::vector<int32_t>> users(g->nodes.size());  // nodes whose distance depends on it
  for (size_t n = 0; n < g->nodes.size(); ++n) {
    const Grammar::Node& node = g->nodes[n];
    const auto use = [&](int32_t of) {
      users[static_cast<size_t>(of)].push_back(static_cast<int32_t>(n));
    };
    for (int32_t i = node.edges_begin; i < node.edges_end; ++i) {
      use(g->edges[static_cast<size_t>(i)].to);
    }
    for (int32_t i = node.calls_begin; i < node.calls_end; ++i) {
      const Grammar::Call& call = g->calls[static_cast<size_t>(i)];
      use(call.next);
      use(g->rules[static_cast<size_t>(call.rule)].start);
    }
  }
  std::deque<int32_t> open;
  std::vector<bool> queued(g->nodes.size(), true);
  for (size_t n = g->nodes.size(); n > 0; --n) open.push_back(static_cast<int32_t>(n - 1));
  while (!open.empty()) {
    const auto n = static_cast<size_t>(open.front());
    open.pop_front();
    queued[n] = false;
    const int32_t distance = NodeDistance(*g, g->nodes[n]);
    if (distance >= g->nodes[n].distance) continue;
    g->nodes[n].distance = distance;
    for (const int32_t user : users[n]) {
      if (queued[static_cast<size_t>(user)]) continue;
      queued[static_cast<size_t>(user)] = true;
      open.push_back(user);
    }
  }
}

// Keeps the entries [begin, end) that can still lead to the end of their rule.
template <typename T, typename Alive>
void Keep(std::vector<T>* all, int32_t* begin, int32_t* end, const Alive& alive,
          std::vector<T>* kept) {
  const auto first = static_cast<int32_t>(kept->size());
  for (int32_t i = *begin; i < *end; ++i) {
    T& entry = (*all)[static_cast<size_t>(i)];
    if (alive(entry)) kept->push_back(entry);
  }
  *begin = first;
  *end = static_cast<int32_t>(kept->size());
}

void CutDeadEnds(Grammar* g) {
  std::vector<Grammar::Edge> edges;
  std::vector<Grammar::Call> calls;
  for (Grammar::Node& node : g->nodes) {
    Keep(
        &g->edges, &node.edges_begin, &node.edges_end,
        [g](const Grammar::Edge& edge) {
          return g->nodes[static_cast<size_t>(edge.to)].distance < kUnreachable;
        },
        &edges);
    Keep(
        &g->calls, &node.calls_begin, &node.calls_end,
        [g](Grammar::Call& call) {
          // A rule that matches nothing can be left out where no match is needed.
          if (call.min == 0 && g->RuleDistance(call.rule) >= kUnreachable) call.max = 0;
          return CallDistance(*g, call) < kUnreachable;
        },
        &calls);
  }
  g->edges = std::move(edges);
  g->calls = std::move(calls);
}

// The rules that a rule calls before it has read a byte.
std::vector<int32_t> FirstCalls(const Grammar& g, int32_t rule) {
  std::vector<int32_t> open = {g.rules[static_cast<size_t>(rule)].start};
  std::vector<int32_t> called;
  for (size_t i = 0; i < open.size(); ++i) {
    const Grammar::Node& node = g.nodes[static_cast<size_t>(open[i])];
    for (int32_t c = node.calls_begin; c < node.calls_end; ++c) {
      const Grammar::Call& call = g.calls[static_cast<size_t>(c)];
      if (call.max != 0) called.push_back(call.rule);
      const bool passes = call.min == 0 || g.RuleDistance(call.rule) == 0;
      if (passes && std::find(open.begin(), open.end(), call.next) == open.end()) {
        open.push_back(call.next);
      }
    }
  }
  return called;
}

// Depth-first search for a cycle of first calls.
bool IsLeftRecursive(const Grammar& g) {
  enum class Mark : char { kNew, kOpen, kDone };
  std::vector<Mark> marks(g.rules.size(), Mark::kNew);
  std::vector<std::pair<int32_t, std::vector<int32_t>>> path;
  const auto enter = [&](int32_t rule) {
    marks[static_cast<size_t>(rule)] = Mark::kOpen;
    path.emplace_back(rule, FirstCalls(g, rule));
  };
  enter(g.root);
  while (!path.empty()) {
    auto& [rule, calls] = path.back();
    if (calls.empty()) {
      marks[static_cast<size_t>(rule)] = Mark::kDone;
      path.pop_back();
      continue;
    }
    const int32_t next = calls.back();
    calls.pop_back();
    if (marks[static_cast<size_t>(next)] == Mark::kOpen) return true;
    if (marks[static_cast<size_t>(next)] == Mark::kNew) enter(next);
  }
  return false;
}

}  // namespace

Status Analyze(Grammar* grammar) {
  MeasureDistances(grammar);
  if (grammar->RuleDistance(grammar->root) >= kUnreachable) {
    return InvalidArgument("can be fulfilled by nothing");
  }
  CutDeadEnds(grammar);
  if (IsLeftRecursive(*grammar)) {
    return InvalidArgument("refers to itself without reading anything in between");
  }
  FindRuns(grammar);
  return {};
}

}  // namespace palu::structured
