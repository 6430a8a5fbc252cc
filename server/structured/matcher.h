// Runs a grammar over bytes.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "server/structured/grammar.h"

namespace palu::structured {

// All ways in which a grammar can have read a text at once, made deterministic as far as they are
// met: a state is a set of stacks, stacks share their lower parts, and equal ones exist once, so
// that following a byte a second time is one lookup. One thread at a time; the grammar must outlive
// it.
class Matcher {
 public:
  using StateId = int32_t;
  static constexpr StateId kDead = 0;  // no text that goes on like this matches

  explicit Matcher(const Grammar& grammar);

  // Nothing read.
  StateId start() const { return start_; }
  StateId Step(StateId state, uint8_t byte) {
    const StateId known = states_[static_cast<size_t>(state)]->next[byte];
    return known >= 0 ? known : FindStep(state, byte);
  }
  // What was read matches as it stands.
  bool complete(StateId state) const { return states_[static_cast<size_t>(state)]->complete; }
  // More can be read.
  bool open(StateId state) const { return !states_[static_cast<size_t>(state)]->stacks.empty(); }
  // Fewest bytes after which what was read matches.
  int32_t distance(StateId state) const { return states_[static_cast<size_t>(state)]->distance; }

  // Text that can be read whatever it says: up to max_chars characters of the classes. Where one of
  // them has ended, the end of the text is at most `distance` away.
  struct Run {
    TextClasses classes = 0;
    int32_t max_chars = 0;
    int32_t distance = 0;
  };
  const Run& run(StateId state) const { return states_[static_cast<size_t>(state)]->run; }

  // ---- Stacks, for whoever computes something per top of stack.
  // A place in a rule: a node, or within the repetitions of call -1 - place, of which count are
  // begun. The bottom of a stack is entry 0, its place means nothing.
  struct Entry {
    int32_t place = 0;
    int32_t count = 0;
    int32_t below = 0;
    int32_t distance = 0;  // from here to the end of the text
  };
  static constexpr int32_t kBottom = 0;
  const Entry& entry(int32_t stack) const { return entries_[static_cast<size_t>(stack)]; }
  const std::vector<int32_t>& stacks(StateId state) const {
    return states_[static_cast<size_t>(state)]->stacks;
  }
  bool is_repetition(int32_t stack) const { return stack != kBottom && entry(stack).place < 0; }
  const Grammar::Call& call_of(int32_t stack) const {
    return grammar_.calls[static_cast<size_t>(-1 - entry(stack).place)];
  }
  // The entry, made if need be.
  int32_t Push(int32_t place, int32_t count, int32_t below);
  // The state of one stack as it stands, and that after the rule on top of `stack` has ended.
  StateId StateOf(int32_t stack);
  StateId StateBelow(int32_t stack);

  const Grammar& grammar() const { return grammar_; }
  size_t num_states() const { return states_.size(); }
  // Forgets everything but one state, whose new number it returns.
  StateId Restart(StateId keep);

 private:
  struct State {
    std::vector<int32_t> stacks;  // sorted; their tops are nodes with edges
    bool complete = false;
    int32_t distance = kUnreachable;
    Run run;
    std::array<StateId, 256> next;  // -1: not known yet
  };
  // An entry that is being followed, without having been made.
  struct Place {
    int32_t place, count, below;
    bool operator==(const Place&) const = default;
  };
  struct PlaceHash {
    size_t operator()(const Place& p) const {
      uint64_t h = static_cast<uint32_t>(p.place) * 0x9e3779b97f4a7c15ull;
      h = (h ^ static_cast<uint32_t>(p.count)) * 0xbf58476d1ce4e5b9ull;
      h = (h ^ static_cast<uint32_t>(p.below)) * 0x94d049bb133111ebull;
      return h ^ (h >> 29);
    }
  };

  void Reset();
  StateId FindStep(StateId state, uint8_t byte);
  // Follows everything that reads nothing, collecting stacks into found_.
  void Follow(Place place);
  void FollowNode(const Place& place);
  void FollowRepetition(const Place& place);
  StateId Intern();
  Run RunOf(const std::vector<int32_t>& stacks) const;
  // By the loop of the top, or the repetition below.
  Run RunOfStack(const Entry& top) const;
  int32_t DistanceOf(int32_t place, int32_t count, int32_t below) const;

  const Grammar& grammar_;
  StateId start_ = 0;
  std::vector<Entry> entries_;
  std::unordered_map<Place, int32_t, PlaceHash> entry_ids_;
  std::vector<std::unique_ptr<State>> states_;
  std::unordered_multimap<size_t, StateId> state_ids_;  // by hash of stacks and complete
  // Of the step that is being found.
  std::vector<Place> visited_, todo_;
  std::vector<int32_t> found_;
  bool complete_ = false;
};

}  // namespace palu::structured
