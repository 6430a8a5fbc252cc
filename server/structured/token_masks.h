// Which tokens of a vocabulary may follow in a state of a grammar.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <tuple>
#include <vector>

#include "server/structured/grammar.h"
#include "server/structured/matcher.h"
#include "server/structured/vocabulary.h"

namespace palu::structured {

// What is the same of a vocabulary for every stack with the same top: which tokens end within the
// rule, whatever lies below, and at which nodes of the vocabulary's tree the rule can end within a
// token, so that only what is below those has to be tried on the stack at hand. Computed when first
// met. Thread-safe; grammar and vocabulary must outlive it.
class TokenMasks {
 public:
  TokenMasks(const Grammar& grammar, const Vocabulary& vocabulary)
      : grammar_(grammar), vocabulary_(vocabulary) {}

  // Clears words and sets the bit of every token after which the text can still be completed
  // within max_distance more bytes. at_start: nothing was read yet (the first token may lose its
  // leading space). False if there is none. The matcher, of the same grammar, gets new states.
  bool Fill(Matcher* matcher, Matcher::StateId state, bool at_start, int32_t max_distance,
            std::span<uint32_t> words);
  // Sets the bits of the tokens after which the text can be completed soonest.
  void FillNearest(Matcher* matcher, Matcher::StateId state, bool at_start,
                   std::span<uint32_t> words);

  size_t num_tops() const;

 private:
  // A node and, if what called its rule repeats it, that call and the count; counts among which no
  // token can tell a difference are one.
  using TopKey = std::tuple<int32_t, int32_t, int32_t>;
  struct Top {
    std::vector<uint32_t> words;     // tokens that end before the part below matters
    std::vector<int32_t> undecided;  // vocabulary nodes where the part below begins
    int32_t max_distance = 0;        // after those tokens, to the end of the part
  };

  TopKey KeyOf(const Matcher& matcher, int32_t stack) const;
  std::shared_ptr<const Top> Find(const TopKey& key);
  Top Compute(const TopKey& key) const;
  int32_t CanonicalCount(const Grammar::Call& call, int32_t count) const;
  // Reads the ways on from a node of the vocabulary's tree from a state, as far as they can be.
  // Visitor::Visit(node, state): where a way can be read; false where it need not be followed.
  // Visitor::Take(begin, end, run): all nodes from begin up to end can be read by the run; false if
  // they have to be visited one by one.
  template <typename Visitor>
  void Walk(Matcher* matcher, Matcher::StateId state, size_t node, bool at_start,
            Visitor* visitor) const;
  template <typename Visitor>
  void Scan(Matcher* matcher, Matcher::StateId state, size_t begin, size_t end, bool strip,
            Visitor* visitor) const;
  void SetTokens(size_t begin, size_t end, std::span<uint32_t> words) const;
  class TopVisitor;
  class TokenVisitor;
  class NearestVisitor;

  const Grammar& grammar_;
  const Vocabulary& vocabulary_;
  mutable std::mutex mutex_;
  std::map<TopKey, std::shared_ptr<const Top>> tops_;  // guarded by mutex_
};

}  // namespace palu::structured
