// A grammar as the engine sees it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/token_constraint.h"
#include "server/structured/grammar.h"
#include "server/structured/mask_worker.h"
#include "server/structured/matcher.h"
#include "server/structured/token_masks.h"
#include "server/structured/vocabulary.h"

namespace palu::structured {

// Grammar and masks, as long as anyone uses them. Thread-safe.
struct MaskedGrammar {
  MaskedGrammar(std::shared_ptr<const Grammar> compiled, std::shared_ptr<const Vocabulary> tokens)
      : grammar(std::move(compiled)), vocabulary(std::move(tokens)), masks(*grammar, *vocabulary) {}
  const std::shared_ptr<const Grammar> grammar;
  const std::shared_ptr<const Vocabulary> vocabulary;
  TokenMasks masks;
};

// One output's way through a grammar, token by token. One thread at a time.
//
// A choice of tokens is only offered if the text can be completed within the tokens that are left,
// with one to spare for the end: a byte costs at most one token. Where even the shortest completion
// is too long for that, only the tokens that come nearest to the end are offered.
class GrammarWalk {
 public:
  GrammarWalk(std::shared_ptr<MaskedGrammar> masked, std::vector<int32_t> stop_ids);

  // False if the token does not fit; then the output is over.
  bool Accept(int32_t token);
  // tokens_left: how many may still be drawn, the next one included.
  void FillMask(int tokens_left);

  std::span<const uint32_t> mask() const { return mask_; }
  bool must_stop() const { return must_stop_; }
  // What was accepted so far matches.
  bool complete() const { return matcher_.complete(state_); }

 private:
  void AllowStop();

  const std::shared_ptr<MaskedGrammar> masked_;
  const std::vector<int32_t> stop_ids_;
  Matcher matcher_;
  Matcher::StateId state_;
  bool at_start_ = true;
  bool ended_ = false;  // by a stop id, or by a token that did not fit
  bool must_stop_ = false;
  std::vector<uint32_t> mask_;
};

// Immutable; thread-safe.
class GrammarConstraint final : public TokenConstraint {
 public:
  // stop_ids: the tokens that may end an output. The worker must outlive the states.
  GrammarConstraint(std::shared_ptr<MaskedGrammar> masked, std::vector<int32_t> stop_ids,
                    MaskWorker* worker)
      : masked_(std::move(masked)), stop_ids_(std::move(stop_ids)), worker_(worker) {}

  std::unique_ptr<ConstraintState> NewState(int max_tokens) const override;

 private:
  const std::shared_ptr<MaskedGrammar> masked_;
  const std::vector<int32_t> stop_ids_;
  MaskWorker* const worker_;
};

}  // namespace palu::structured
