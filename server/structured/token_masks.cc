#include "server/structured/token_masks.h"

#include <algorithm>
#include <array>
#include <utility>

namespace palu::structured {
namespace {

// Beyond, all are forgotten: 16 KiB each for a vocabulary of 128 K.
constexpr size_t kMaxTops = 2048;
// Bytes that a character which a token cuts can still have.
constexpr int32_t kMaxCharRest = 3;

void SetBit(std::span<uint32_t> words, int32_t token) {
  words[static_cast<size_t>(token) / 32] |= 1u << (token % 32);
}

// Whatever lies below the node, or in the group, the run reads it.
template <typename Part>
bool Covers(const Matcher::Run& run, const Part& part) {
  return (part.classes & ~run.classes) == 0 && part.height <= run.max_chars;
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

void TokenMasks::SetTokens(size_t begin, size_t end, std::span<uint32_t> words) const {
  for (const Vocabulary::Group& group : vocabulary_.groups()) {
    if (begin != group.begin || end != group.end) continue;
    for (size_t i = 0; i < words.size(); ++i) words[i] |= group.words[i];
    return;
  }
  for (const int32_t token : vocabulary_.TokensAt(begin, end)) SetBit(words, token);
}

template <typename Visitor>
void TokenMasks::Walk(Matcher* matcher, Matcher::StateId state, size_t node, bool at_start,
                      Visitor* visitor) const {
  const bool strip = at_start && vocabulary_.strips_leading_space();
  if (node > 0) {
    const auto end = static_cast<size_t>(vocabulary_.nodes()[node].end);
    return Scan(matcher, state, node + 1, end, strip, visitor);
  }
  for (const Vocabulary::Group& group : vocabulary_.groups()) {
    const Matcher::Run run = matcher->run(state);
    // A token that is nothing but the space would leave the text empty.
    if (!strip && Covers(run, group) && visitor->Take(group.begin, group.end, run)) continue;
    Scan(matcher, state, group.begin, group.end, strip, visitor);
  }
}

template <typename Visitor>
void TokenMasks::Scan(Matcher* matcher, Matcher::StateId state, size_t begin, size_t end,
                      bool strip, Visitor* visitor) const {
  if (begin == end) return;
  const std::vector<Vocabulary::Node>& nodes = vocabulary_.nodes();
  const int base = nodes[begin].depth - 1;
  std::array<Matcher::StateId, 257> states;
  states[0] = state;
  for (size_t i = begin; i < end;) {
    const Vocabulary::Node& n = nodes[i];
    const auto depth = static_cast<size_t>(n.depth - base);
    const auto below_end = static_cast<size_t>(n.end);
    const bool stripped = strip && depth == 1 && n.byte == ' ';
    const Matcher::StateId next = stripped ? states[0] : matcher->Step(states[depth - 1], n.byte);
    states[depth] = next;
    const bool descend = next != Matcher::kDead && (stripped || visitor->Visit(i, next));
    const Matcher::Run& run = matcher->run(next);
    const bool taken = descend && run.classes != 0 && below_end > i + 1 && Covers(run, n) &&
                       visitor->Take(i + 1, below_end, run);
    i = descend && !taken ? i + 1 : below_end;
  }
}

// The stack may end right at the start too; that part belongs to other stacks of the state.
class TokenMasks::TopVisitor {
 public:
  TopVisitor(const TokenMasks& masks, const Matcher& matcher, Top* top)
      : masks_(masks), matcher_(matcher), top_(top) {}

  bool Visit(size_t node, Matcher::StateId state) {
    const Vocabulary& vocabulary = masks_.vocabulary_;
    const std::span<const int32_t> tokens = vocabulary.TokensAt(node, node + 1);
    for (const int32_t token : tokens) SetBit(top_->words, token);
    if (!tokens.empty()) {
      top_->max_distance = std::max(top_->max_distance, matcher_.distance(state));
    }
    const bool leaf = static_cast<size_t>(vocabulary.nodes()[node].end) == node + 1;
    if (matcher_.complete(state) && !leaf) top_->undecided.push_back(static_cast<int32_t>(node));
    return matcher_.open(state);
  }

  // Where the part below could begin among these adds nothing: all tokens are there.
  bool Take(size_t begin, size_t end, const Matcher::Run& run) {
    masks_.SetTokens(begin, end, top_->words);
    top_->max_distance = std::max(top_->max_distance, run.distance + kMaxCharRest);
    return true;
  }

 private:
  const TokenMasks& masks_;
  const Matcher& matcher_;
  Top* const top_;
};

TokenMasks::Top TokenMasks::Compute(const TopKey& key) const {
  const auto [place, call, count] = key;
  Matcher matcher(grammar_);
  const int32_t below =
      call < 0 ? matcher.Push(call, count, Matcher::kBottom) : int32_t{Matcher::kBottom};
  const Matcher::StateId state = matcher.StateOf(matcher.Push(place, 0, below));
  Top top;
  top.words.resize(vocabulary_.mask_words());
  TopVisitor visitor(*this, matcher, &top);
  // Only edges of the top itself begin here, not what a pop would give.
  Walk(&matcher, state, 0, false, &visitor);
  return top;
}

// Tokens after which the text can be completed within max_distance bytes.
class TokenMasks::TokenVisitor {
 public:
  TokenVisitor(const TokenMasks& masks, const Matcher& matcher, int32_t max_distance,
               std::span<uint32_t> words)
      : masks_(masks), matcher_(matcher), max_distance_(max_distance), words_(words) {}

  bool Visit(size_t node, Matcher::StateId state) {
    if (matcher_.distance(state) <= max_distance_) {
      const auto tokens = masks_.vocabulary_.TokensAt(node, node + 1);
      for (const int32_t token : tokens) SetBit(words_, token);
    }
    return matcher_.open(state);
  }

  bool Take(size_t begin, size_t end, const Matcher::Run& run) {
    if (run.distance + kMaxCharRest > max_distance_) return false;
    masks_.SetTokens(begin, end, words_);
    return true;
  }

 private:
  const TokenMasks& masks_;
  const Matcher& matcher_;
  const int32_t max_distance_;
  const std::span<uint32_t> words_;
};

bool TokenMasks::Fill(Matcher* matcher, Matcher::StateId state, bool at_start, int32_t max_distance,
                      std::span<uint32_t> words) {
  std::fill(words.begin(), words.end(), 0);
  TokenVisitor visitor(*this, *matcher, max_distance, words);
  if (at_start && vocabulary_.strips_leading_space()) {
    Walk(matcher, state, 0, true, &visitor);
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
        Walk(matcher, matcher->StateOf(stack), 0, false, &visitor);
        continue;
      }
      for (size_t i = 0; i < words.size(); ++i) words[i] |= top->words[i];
      if (rest == Matcher::kBottom) continue;
      const Matcher::StateId after = matcher->StateBelow(rest);
      for (const int32_t node : top->undecided) {
        Walk(matcher, after, static_cast<size_t>(node), false, &visitor);
      }
    }
  }
  return std::any_of(words.begin(), words.end(), [](uint32_t word) { return word != 0; });
}

// Tokens after which the text can be completed soonest.
class TokenMasks::NearestVisitor {
 public:
  NearestVisitor(const TokenMasks& masks, const Matcher& matcher, std::span<uint32_t> words)
      : masks_(masks), matcher_(matcher), words_(words) {}

  bool Visit(size_t node, Matcher::StateId state) {
    const int32_t distance = matcher_.distance(state);
    const std::span<const int32_t> tokens = masks_.vocabulary_.TokensAt(node, node + 1);
    if (!tokens.empty() && distance <= nearest_) {
      if (distance < nearest_) std::fill(words_.begin(), words_.end(), 0);
      nearest_ = distance;
      for (const int32_t token : tokens) SetBit(words_, token);
    }
    return matcher_.open(state);
  }

  bool Take(size_t, size_t, const Matcher::Run&) { return false; }

 private:
  const TokenMasks& masks_;
  const Matcher& matcher_;
  const std::span<uint32_t> words_;
  int32_t nearest_ = kUnreachable;
};

void TokenMasks::FillNearest(Matcher* matcher, Matcher::StateId state, bool at_start,
                             std::span<uint32_t> words) {
  std::fill(words.begin(), words.end(), 0);
  NearestVisitor visitor(*this, *matcher, words);
  Walk(matcher, state, 0, at_start, &visitor);
}

}  // namespace palu::structured
