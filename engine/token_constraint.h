// Which tokens a request's output may be made of: the seam between the engine and grammars.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

namespace palu {

// One choice's place in its grammar. It belongs to the choice, not to its blocks, so that
// preemption and prefix reuse leave it alone. Used by the engine thread only, which must not do
// text work: Accept begins the work for the next step elsewhere, and Mask, called once the forward
// pass is under way, takes its result.
class ConstraintState {
 public:
  virtual ~ConstraintState() = default;

  // The token that was drawn; tokens_left: how many may follow it.
  virtual void Accept(int32_t token, int tokens_left) = 0;
  // Bit t % 32 of word t / 32 set: token t may be drawn next. Tokens beyond its end may not. Waits
  // for the work that Accept began; valid until the next Accept.
  virtual std::span<const uint32_t> Mask() = 0;
  // Nothing can follow, so that the next token ends the output whatever it is, also before
  // min_tokens. Waits like Mask.
  virtual bool must_stop() = 0;
};

// What a request carries. Immutable; thread-safe; shared by the request's choices.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;

  // The place before the first token of an output of at most max_tokens. Begins the work for the
  // first mask. Called on the thread that submits.
  virtual std::unique_ptr<ConstraintState> NewState(int max_tokens) const = 0;
};

}  // namespace palu
