#include "server/structured/token_masks.h"

#include <algorithm>
#include <array>
#include <utility>

namespace palu::structured {
namespace {

// Beyond, all are forgotten: 16 KiB each for a vocabulary of 128 K.
constexpr size_t kMaxTops = 2048;

void SetBit(std::span<uint32_t> words, int32_t token) {
  words[static_cast<size_t>(token) / 32] |= 1u << (token % 32);
}

}  // namespace

size_t TokenMasks::num_tops() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return tops_.size();
}

int32_t TokenMasks::CanonicalCount(const Grammar::Call& call, int32_t count) const {
  // A token has at most so many bytes, hence completes at most so many repetitions.
  const int32_t reach = vocabulary_.max_token_bytes() + 1;
  if (count + reach < call.min) return 0;
  if (count >= call.min && (call.max < 0 || count + reach < call.max)) return call.min;
  return count;
}

TokenMasks::TopKey TokenMasks::KeyOf(const Matcher& matcher, int32_t stack) const {
  const Matcher::Entry& top = matcher.entry(stack);
  if (!matcher.is_repetition(top.below)) return {top.place, 0, 0};
  const Matcher::Entry& below = matcher.entry(top.below);
  return {top.place, below.place, CanonicalCount(matcher.call_of(top.below), below.count)};
}

std::shared_ptr<const TokenMasks::Top> TokenMasks::Find(const TopKey& key) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto it = tops_.find(key);
    if (it != tops_.end()) return it->second;
  }
  auto top = std::make_shared<const Top>(Compute(key));
  const std::lock_guard<std::mutex> lock(mutex_);
  if (tops_.size() >= kMaxTops) tops_.clear();
  return tops_.emplace(key, std::move(top)).first->second;
}

template <typename Visit>
void TokenMasks::Walk(Matcher* matcher, Matcher::StateId state, size_t node, bool at_start,
                      const Visit& visit) const {
  const std::vector<Vocabulary::Node>& nodes = vocabulary_.nodes();
  const auto root_end = static_cast<size_t>(nodes[node].end);
  const int base = nodes[node].depth;
  std::array<Matcher::StateId, 257> states;
  states[0] = state;
  const bool strip = at_start && vocabulary_.strips_leading_space();
  for (size_t i = node + 1; i < root_end;) {
    const Vocabulary::Node& n = nodes[i];
    const size_t depth = static_cast<size_t>(n.depth - base);
    const bool stripped = strip && depth == 1 && n.byte == ' ';
    const Matcher::StateId next = stripped ? states[0] : matcher->Step(states[depth - 1], n.byte);
    states[depth] = next;
    // A token that is nothing but the space would leave the text empty.
    const bool descend =
        next != Matcher::kDead && (stripped || visit(i, vocabulary_.TokensAt(n), next));
    i = descend ? i + 1 : static_cast<size_t>(n.end);
  }
}

TokenMasks::Top TokenMasks::Compute(const TopKey& key) const {
  const auto [place, call, count] = key;
  Matcher matcher(grammar_);
  const int32_t below =
      call < 0 ? matcher.Push(call, count, Matcher::kBottom) : int32_t{Matcher::kBottom};
  const Matcher::StateId state = matcher.StateOf(matcher.Push(place, 0, below));
  Top top;
  top.words.resize(vocabulary_.mask_words());
  // The stack may end right here too; that part belongs to other stacks of the state.
  const auto visit = [&](size_t node, std::span<const int32_t> tokens, Matcher::StateId next) {
    for (const int32_t token : tokens) SetBit(top.words, token);
    if (!tokens.empty()) {
      int32_t farthest = matcher.complete(next) ? 0 : matcher.distance(next);
      top.max_distance = std::max(top.max_distance, farthest);
    }
    if (matcher.complete(next) && static_cast<size_t>(vocabulary_.nodes()[node].end) > node + 1) {
      top.undecided.push_back(static_cast<int32_t>(node));
    }
    return matcher.open(next);
  };
  // Only edges of the top itself begin here, not what a pop would give.
  Walk(&matcher, state, 0, false, visit);
  return top;
}

bool TokenMasks::Fill(Matcher* matcher, Matcher::StateId state, bool at_start, int32_t max_distance,
                      std::span<uint32_t> words) {
  std::fill(words.begin(), words.end(), 0);
  const auto try_token = [&](size_t, std::span<const int32_t> tokens, Matcher::StateId next) {
    if (matcher->distance(next) <= max_distance) {
      for (const int32_t token : tokens) SetBit(words, token);
    }
    return matcher->open(next);
  };
  if (at_start && vocabulary_.strips_leading_space()) {
    Walk(matcher, state, 0, true, try_token);
  } else {
    const std::vector<int32_t> stacks = matcher->stacks(state);
    for (const int32_t stack : stacks) {
      const TopKey key = KeyOf(*matcher, stack);
      const std::shared_ptr<const Top> top = Find(key);
      int32_t rest = matcher->entry(stack).below;
      int64_t distance = top->max_distance;
      if (matcher->is_repetition(rest)) {
        const Grammar::Call& call = matcher->call_of(rest);
        const auto missing = [&](int32_t count) { return int64_t{std::max(call.min - count, 0)}; };
        distance += (missing(matcher->entry(rest).count) - missing(std::get<2>(key))) *
                    grammar_.RuleDistance(call.rule);
        rest = matcher->entry(rest).below;
      }
      if (rest != Matcher::kBottom) distance += matcher->entry(rest).distance;
      if (distance > max_distance) {
        Walk(matcher, matcher->StateOf(stack), 0, false, try_token);
        continue;
      }
      for (size_t i = 0; i < words.size(); ++i) words[i] |= top->words[i];
      if (rest == Matcher::kBottom) continue;
      const Matcher::StateId after = matcher->StateBelow(rest);
      for (const int32_t node : top->undecided) {
        Walk(matcher, after, static_cast<size_t>(node), false, try_token);
      }
    }
  }
  return std::any_of(words.begin(), words.end(), [](uint32_t word) { return word != 0; });
}

void TokenMasks::FillNearest(Matcher* matcher, Matcher::StateId state, bool at_start,
                             std::span<uint32_t> words) {
  std::fill(words.begin(), words.end(), 0);
  int32_t nearest = kUnreachable;
  Walk(matcher, state, 0, at_start,
       [&](size_t, std::span<const int32_t> tokens, Matcher::StateId next) {
         const int32_t distance = matcher->distance(next);
         if (!tokens.empty() && distance <= nearest) {
           if (distance < nearest) std::fill(words.begin(), words.end(), 0);
           nearest = distance;
           for (const int32_t token : tokens) SetBit(words, token);
         }
         return matcher->open(next);
       });
}

}  // namespace palu::structured
