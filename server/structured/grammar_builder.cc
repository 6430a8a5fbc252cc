#include "server/structured/grammar_builder.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <utility>

#include "kernels/check.h"
#include "server/structured/grammar_analysis.h"
#include "server/structured/utf8_codes.h"

namespace palu::structured {
namespace {

constexpr size_t kMaxNodes = 200000;

Status TooLarge() {
  return InvalidArgument("is too complex: its grammar has more than " + std::to_string(kMaxNodes) +
                         " nodes");
}

// The escape of a character that may not stand in a JSON string as it is.
std::string JsonEscape(CodePoint code) {
  static constexpr std::string_view kShort = "\"\\\b\f\n\r\t";
  static constexpr std::string_view kLetters = "\"\\bfnrt";
  const size_t place = kShort.find(static_cast<char>(code));
  if (place != std::string_view::npos) return std::string("\\") + kLetters[place];
  char text[8];
  std::snprintf(text, sizeof(text), "\\u%04x", static_cast<unsigned>(code));
  return text;
}

bool NeedsEscape(CodePoint code) { return code < 0x20 || code == '"' || code == '\\'; }

}  // namespace

// Subset construction of one rule, appended to a grammar.
class RuleDeterminizer {
 public:
  RuleDeterminizer(const GrammarBuilder& builder, Grammar* grammar)
      : builder_(builder), grammar_(grammar), seen_(builder.nodes_.size()) {}

  // False once the grammar got too large.
  bool Run(int rule) {
    const GrammarBuilder::Rule& source = builder_.rules_[static_cast<size_t>(rule)];
    numbers_.clear();
    sets_.clear();
    base_ = static_cast<int32_t>(grammar_->nodes.size());
    grammar_->rules[static_cast<size_t>(rule)].start = Number({source.start});
    for (size_t s = 0; s < sets_.size(); ++s) {
      const std::vector<int32_t> set = *sets_[s];
      work_ += set.size();
      if (base_ + sets_.size() > kMaxNodes || work_ > 50 * kMaxNodes) return false;
      Grammar::Node node;
      node.accept = std::binary_search(set.begin(), set.end(), source.end);
      AddEdges(set, &node);
      AddCalls(set, &node);
      grammar_->nodes.push_back(node);
    }
    return true;
  }

 private:
  std::vector<int32_t> Closure(const std::vector<int32_t>& nodes) {
    ++walk_;
    std::vector<int32_t> closed;
    const auto visit = [&](int32_t node) {
      if (seen_[static_cast<size_t>(node)] == walk_) return;
      seen_[static_cast<size_t>(node)] = walk_;
      closed.push_back(node);
    };
    for (const int32_t node : nodes) visit(node);
    for (size_t i = 0; i < closed.size(); ++i) {
      for (const int32_t to : builder_.nodes_[static_cast<size_t>(closed[i])].empty) visit(to);
    }
    std::sort(closed.begin(), closed.end());
    return closed;
  }

  int32_t Number(const std::vector<int32_t>& nodes) {
    const auto [it, added] =
        numbers_.emplace(Closure(nodes), base_ + static_cast<int32_t>(sets_.size()));
    if (added) sets_.push_back(&it->first);
    return it->second;
  }

  void AddEdges(const std::vector<int32_t>& set, Grammar::Node* node) {
    std::vector<GrammarBuilder::Edge> edges;
    std::vector<int> cuts;
    for (const int32_t source : set) {
      for (const auto& edge : builder_.nodes_[static_cast<size_t>(source)].edges) {
        edges.push_back(edge);
        cuts.push_back(edge.first);
        cuts.push_back(edge.last + 1);
      }
    }
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    node->edges_begin = static_cast<int32_t>(grammar_->edges.size());
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      std::vector<int32_t> targets;
      for (const auto& edge : edges) {
        if (edge.first <= cuts[i] && cuts[i] <= edge.last) targets.push_back(edge.to);
      }
      if (targets.empty()) continue;
      const int32_t to = Number(targets);
      const auto first = static_cast<uint8_t>(cuts[i]);
      const auto last = static_cast<uint8_t>(cuts[i + 1] - 1);
      const bool extends = static_cast<int32_t>(grammar_->edges.size()) > node->edges_begin &&
                           grammar_->edges.back().to == to &&
                           grammar_->edges.back().last + 1 == first;
      if (extends) {
        grammar_->edges.back().last = last;
      } else {
        grammar_->edges.push_back({first, last, to});
      }
    }
    node->edges_end = static_cast<int32_t>(grammar_->edges.size());
  }

  void AddCalls(const std::vector<int32_t>& set, Grammar::Node* node) {
    // What is called in the same way goes on together.
    std::map<std::tuple<int32_t, int32_t, int32_t>, std::vector<int32_t>> targets;
    for (const int32_t source : set) {
      for (const Grammar::Call& call : builder_.nodes_[static_cast<size_t>(source)].calls) {
        targets[{call.rule, call.min, call.max}].push_back(call.next);
      }
    }
    node->calls_begin = static_cast<int32_t>(grammar_->calls.size());
    for (const auto& [key, next] : targets) {
      const auto [rule, min, max] = key;
      grammar_->calls.push_back({rule, Number(next), min, max});
    }
    node->calls_end = static_cast<int32_t>(grammar_->calls.size());
  }

  const GrammarBuilder& builder_;
  Grammar* const grammar_;
  std::vector<uint64_t> seen_;
  uint64_t walk_ = 0;
  size_t work_ = 0;
  int32_t base_ = 0;
  std::map<std::vector<int32_t>, int32_t> numbers_;
  std::vector<const std::vector<int32_t>*> sets_;
};

int GrammarBuilder::NewRule() {
  rules_.emplace_back();
  return static_cast<int>(rules_.size()) - 1;
}

void GrammarBuilder::Define(int rule, int start, int end) {
  rules_[static_cast<size_t>(rule)] = {start, end};
}

int GrammarBuilder::NewNode() {
  nodes_.emplace_back();
  return static_cast<int>(nodes_.size()) - 1;
}

int GrammarBuilder::AddBytes(int from, uint8_t first, uint8_t last) {
  const int to = NewNode();
  nodes_[static_cast<size_t>(from)].edges.push_back({first, last, to});
  return to;
}

int GrammarBuilder::AddText(int from, std::string_view text) {
  for (const char c : text) from = AddBytes(from, static_cast<uint8_t>(c), static_cast<uint8_t>(c));
  return from;
}

int GrammarBuilder::AddChars(int from, const CodeSet& set, Spelling spelling) {
  const int to = NewNode();
  const auto spell = [&](CodeRange range) {
    for (const ByteSequence& bytes : Utf8Sequences(range)) {
      int at = from;
      for (int i = 0; i < bytes.length; ++i) {
        if (i + 1 < bytes.length) {
          at = AddBytes(at, bytes.first[i], bytes.last[i]);
        } else {
          nodes_[static_cast<size_t>(at)].edges.push_back({bytes.first[i], bytes.last[i], to});
        }
      }
    }
  };
  for (const CodeRange& range : set.ranges()) {
    if (spelling == Spelling::kPlain) {
      spell(range);
      continue;
    }
    CodePoint next = range.first;
    for (CodePoint code = range.first; code <= std::min<CodePoint>(range.last, '\\'); ++code) {
      if (!NeedsEscape(code)) continue;
      if (next < code) spell({next, code - 1});
      AddEmpty(AddText(from, JsonEscape(code)), to);
      next = code + 1;
    }
    if (next <= range.last) spell({next, range.last});
  }
  return to;
}

int GrammarBuilder::AddDfa(int from, const CharDfa& dfa, Spelling spelling) {
  std::vector<int> node(dfa.states.size());
  for (int& n : node) n = NewNode();
  const int end = NewNode();
  AddEmpty(from, node[0]);
  for (size_t s = 0; s < dfa.states.size(); ++s) {
    std::map<int, CodeSet> targets;
    for (const CharDfa::Edge& edge : dfa.states[s].edges) targets[edge.to].Add(edge.range);
    for (const auto& [to, set] : targets) {
      AddEmpty(AddChars(node[s], set, spelling), node[static_cast<size_t>(to)]);
    }
    if (dfa.states[s].accept) AddEmpty(node[s], end);
  }
  return end;
}

int GrammarBuilder::AddCall(int from, int rule, int32_t min, int32_t max) {
  const int to = NewNode();
  nodes_[static_cast<size_t>(from)].calls.push_back({rule, to, min, max});
  return to;
}

Result<std::shared_ptr<const Grammar>> GrammarBuilder::Finish(int root) const {
  auto grammar = std::make_shared<Grammar>();
  grammar->root = root;
  grammar->rules.resize(rules_.size());
  std::vector<bool> needed(rules_.size());
  std::vector<int> open = {root};
  needed[static_cast<size_t>(root)] = true;
  RuleDeterminizer determinizer(*this, grammar.get());
  while (!open.empty()) {
    const int rule = open.back();
    open.pop_back();
    PALU_CHECK(rules_[static_cast<size_t>(rule)].start >= 0);
    const size_t calls = grammar->calls.size();
    if (nodes_.size() > 10 * kMaxNodes || !determinizer.Run(rule)) {
      return tl::unexpected(TooLarge());
    }
    for (size_t i = calls; i < grammar->calls.size(); ++i) {
      const int called = grammar->calls[i].rule;
      if (!needed[static_cast<size_t>(called)]) {
        needed[static_cast<size_t>(called)] = true;
        open.push_back(called);
      }
    }
  }
  Status status = Analyze(grammar.get());
  if (!status.ok()) return tl::unexpected(std::move(status));
  return grammar;
}

}  // namespace palu::structured
