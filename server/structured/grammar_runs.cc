#include "server/structured/grammar_runs.h"

#include <algorithm>
#include <iterator>
#include <vector>

namespace palu::structured {
namespace {

// Every text of the sequence leads from the node to one that is_target.
template <typename IsTarget>
bool AllLead(const Grammar& g, int32_t from, const ByteSequence& sequence, size_t place,
             const IsTarget& is_target) {
  if (place >= std::min(std::size(sequence.first), static_cast<size_t>(sequence.length))) {
    return is_target(from);
  }
  const Grammar::Node& node = g.nodes[static_cast<size_t>(from)];
  int next = sequence.first[place];
  for (int32_t i = node.edges_begin; i < node.edges_end; ++i) {
    const Grammar::Edge& edge = g.edges[static_cast<size_t>(i)];
    if (edge.last < next) continue;
    if (edge.first > next || !AllLead(g, edge.to, sequence, place + 1, is_target)) return false;
    next = edge.last + 1;
    if (next > sequence.last[place]) return true;
  }
  return false;
}

template <typename IsTarget>
TextClasses ClassesThatLead(const Grammar& g, int32_t from, const IsTarget& is_target) {
  TextClasses classes = 0;
  for (const auto& [text_class, sequences] : ClassSpellings()) {
    const bool all = std::all_of(sequences.begin(), sequences.end(), [&](const auto& sequence) {
      return AllLead(g, from, sequence, 0, is_target);
    });
    if (all) classes |= text_class;
  }
  return classes;
}

bool HasLoop(const Grammar& g, int32_t node) {
  const Grammar::Node& n = g.nodes[static_cast<size_t>(node)];
  return std::any_of(g.edges.begin() + n.edges_begin, g.edges.begin() + n.edges_end,
                     [node](const Grammar::Edge& edge) { return edge.to == node; });
}

}  // namespace

void FindRuns(Grammar* grammar) {
  for (size_t n = 0; n < grammar->nodes.size(); ++n) {
    const auto node = static_cast<int32_t>(n);
    if (!HasLoop(*grammar, node)) continue;
    grammar->nodes[n].loops =
        ClassesThatLead(*grammar, node, [node](int32_t to) { return to == node; });
  }
  std::vector<bool> repeated(grammar->rules.size());
  for (const Grammar::Call& call : grammar->calls) {
    if (!call.once()) repeated[static_cast<size_t>(call.rule)] = true;
  }
  for (size_t r = 0; r < grammar->rules.size(); ++r) {
    Grammar::Rule& rule = grammar->rules[r];
    if (!repeated[r]) continue;
    rule.chars = ClassesThatLead(*grammar, rule.start, [grammar](int32_t to) {
      return grammar->nodes[static_cast<size_t>(to)].accept;
    });
  }
}

}  // namespace palu::structured
