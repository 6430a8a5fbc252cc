#include "server/structured/matcher.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>

namespace palu::structured {
namespace {

// More ways at once than this are not followed: an ambiguous grammar could have exponentially many.
// Those nearest to their end stay, so that what is produced still matches.
constexpr size_t kMaxStacks = 256;
constexpr size_t kMaxVisited = 4096;

int32_t Cap(int64_t distance) {
  return static_cast<int32_t>(std::min<int64_t>(distance, kUnreachable));
}

}  // namespace

Matcher::Matcher(const Grammar& grammar) : grammar_(grammar) {
  Reset();
  const int32_t root = grammar.rules[static_cast<size_t>(grammar.root)].start;
  Follow({root, 0, kBottom});
  start_ = Intern();
}

void Matcher::Reset() {
  entries_.assign(1, Entry{});
  entry_ids_.clear();
  states_.clear();
  state_ids_.clear();
  auto dead = std::make_unique<State>();
  dead->next.fill(kDead);
  states_.push_back(std::move(dead));
}

int32_t Matcher::DistanceOf(int32_t place, int32_t count, int32_t below) const {
  const int64_t rest = below == kBottom ? 0 : entries_[static_cast<size_t>(below)].distance;
  if (place >= 0) return Cap(rest + grammar_.nodes[static_cast<size_t>(place)].distance);
  const Grammar::Call& call = grammar_.calls[static_cast<size_t>(-1 - place)];
  const int64_t missing = std::max(call.min - count, 0);
  const int64_t repeats = missing == 0 ? 0 : missing * grammar_.RuleDistance(call.rule);
  return Cap(rest + repeats + grammar_.nodes[static_cast<size_t>(call.next)].distance);
}

int32_t Matcher::Push(int32_t place, int32_t count, int32_t below) {
  const auto [it, added] =
      entry_ids_.emplace(Place{place, count, below}, static_cast<int32_t>(entries_.size()));
  if (added) entries_.push_back({place, count, below, DistanceOf(place, count, below)});
  return it->second;
}

void Matcher::Follow(Place place) {
  todo_.push_back(place);
  while (!todo_.empty()) {
    const Place next = todo_.back();
    todo_.pop_back();
    if (visited_.size() > kMaxVisited ||
        std::find(visited_.begin(), visited_.end(), next) != visited_.end()) {
      continue;
    }
    visited_.push_back(next);
    next.place >= 0 ? FollowNode(next) : FollowRepetition(next);
  }
}

void Matcher::FollowNode(const Place& place) {
  const Grammar::Node& node = grammar_.nodes[static_cast<size_t>(place.place)];
  if (node.accept) {
    if (place.below == kBottom) {
      complete_ = true;
    } else {
      const Entry& below = entries_[static_cast<size_t>(place.below)];
      todo_.push_back({below.place, below.count, below.below});
    }
  }
  if (node.edges_begin != node.edges_end) {
    found_.push_back(Push(place.place, place.count, place.below));
  }
  for (int32_t i = node.calls_begin; i < node.calls_end; ++i) {
    const Grammar::Call& call = grammar_.calls[static_cast<size_t>(i)];
    if (!call.once()) {
      todo_.push_back({-1 - i, 0, place.below});
      continue;
    }
    // What is called last returns to where this rule returns to, so that lists which are written as
    // recursion do not grow the stack.
    const bool last = grammar_.nodes[static_cast<size_t>(call.next)].is_end();
    const int32_t below = last ? place.below : Push(call.next, 0, place.below);
    todo_.push_back({grammar_.rules[static_cast<size_t>(call.rule)].start, 0, below});
  }
}

void Matcher::FollowRepetition(const Place& place) {
  const Grammar::Call& call = grammar_.calls[static_cast<size_t>(-1 - place.place)];
  if (place.count >= call.min) todo_.push_back({call.next, 0, place.below});
  if (call.max >= 0 && place.count >= call.max) return;
  // Without an upper limit only what is still missing has to be counted.
  const int32_t count = call.max < 0 ? std::min(place.count + 1, call.min) : place.count + 1;
  const int32_t below = Push(place.place, count, place.below);
  todo_.push_back({grammar_.rules[static_cast<size_t>(call.rule)].start, 0, below});
}

Matcher::StateId Matcher::Intern() {
  visited_.clear();
  std::sort(found_.begin(), found_.end());
  found_.erase(std::unique(found_.begin(), found_.end()), found_.end());
  if (found_.size() > kMaxStacks) {
    std::stable_sort(found_.begin(), found_.end(), [this](int32_t a, int32_t b) {
      return entry(a).distance < entry(b).distance;
    });
    found_.resize(kMaxStacks);
    std::sort(found_.begin(), found_.end());
  }
  std::vector<int32_t> stacks = std::move(found_);
  found_.clear();
  const bool complete = std::exchange(complete_, false);
  if (stacks.empty() && !complete) return kDead;
  size_t hash = complete ? 1 : 0;
  for (const int32_t stack : stacks) {
    hash = (hash ^ static_cast<size_t>(stack)) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 32;
  }
  const auto [begin, end] = state_ids_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const State& state = *states_[static_cast<size_t>(it->second)];
    if (state.complete == complete && state.stacks == stacks) return it->second;
  }
  const auto id = static_cast<StateId>(states_.size());
  auto state = std::make_unique<State>();
  state->complete = complete;
  state->distance = complete ? 0 : kUnreachable;
  for (const int32_t stack : stacks) {
    state->distance = std::min(state->distance, entry(stack).distance);
  }
  state->run = RunOf(stacks);
  state->stacks = std::move(stacks);
  state->next.fill(-1);
  states_.push_back(std::move(state));
  state_ids_.emplace(hash, id);
  return id;
}

Matcher::Run Matcher::RunOfStack(const Entry& top) const {
  const Grammar::Node& node = grammar_.nodes[static_cast<size_t>(top.place)];
  if (node.loops != 0) return {node.loops, kUnreachable, top.distance};
  if (!is_repetition(top.below)) return {};
  const Grammar::Call& call = call_of(top.below);
  const Grammar::Rule& rule = grammar_.rules[static_cast<size_t>(call.rule)];
  if (top.place != rule.start) return {};
  const int32_t max_chars = call.max < 0 ? kUnreachable : call.max - entry(top.below).count + 1;
  return {rule.chars, max_chars, top.distance};
}

Matcher::Run Matcher::RunOf(const std::vector<int32_t>& stacks) const {
  Run best;
  for (const int32_t stack : stacks) {
    const Run run = RunOfStack(entry(stack));
    if (std::popcount(run.classes) > std::popcount(best.classes)) best = run;
  }
  return best;
}

Matcher::StateId Matcher::FindStep(StateId state, uint8_t byte) {
  int first = 0, last = 255;  // bytes that every stack treats like this one
  for (const int32_t stack : states_[static_cast<size_t>(state)]->stacks) {
    const Entry top = entry(stack);
    const Grammar::Node& node = grammar_.nodes[static_cast<size_t>(top.place)];
    const auto begin = grammar_.edges.begin() + node.edges_begin;
    const auto end = grammar_.edges.begin() + node.edges_end;
    const auto edge = std::lower_bound(
        begin, end, byte, [](const Grammar::Edge& e, uint8_t value) { return e.last < value; });
    const bool reads = edge != end && edge->first <= byte;
    if (reads) {
      first = std::max<int>(first, edge->first);
      last = std::min<int>(last, edge->last);
      Follow({edge->to, top.count, top.below});
    } else {
      if (edge != begin) first = std::max(first, std::prev(edge)->last + 1);
      if (edge != end) last = std::min(last, edge->first - 1);
    }
  }
  const StateId next = Intern();
  auto& known = states_[static_cast<size_t>(state)]->next;
  std::fill(known.begin() + first, known.begin() + last + 1, next);
  return next;
}

Matcher::StateId Matcher::StateOf(int32_t stack) {
  const Entry& top = entry(stack);
  Follow({top.place, top.count, top.below});
  return Intern();
}

Matcher::StateId Matcher::StateBelow(int32_t stack) {
  if (stack == kBottom) {
    complete_ = true;
    return Intern();
  }
  return StateOf(stack);
}

Matcher::StateId Matcher::Restart(StateId keep) {
  const std::vector<Entry> entries = std::move(entries_);
  const std::vector<int32_t> stacks = states_[static_cast<size_t>(keep)]->stacks;
  const bool complete = states_[static_cast<size_t>(keep)]->complete;
  Reset();
  for (const int32_t stack : stacks) {
    std::vector<int32_t> path;  // top first
    for (int32_t at = stack; at != kBottom; at = entries[static_cast<size_t>(at)].below) {
      path.push_back(at);
    }
    int32_t below = kBottom;
    for (auto it = path.rbegin(); it != path.rend(); ++it) {
      const Entry& old = entries[static_cast<size_t>(*it)];
      below = Push(old.place, old.count, below);
    }
    found_.push_back(below);
  }
  complete_ = complete;
  return Intern();
}

}  // namespace palu::structured
