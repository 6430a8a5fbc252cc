// From what clients ask of outputs to constraints for the engine.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/status.h"
#include "engine/token_constraint.h"
#include "server/structured/grammar_constraint.h"
#include "server/structured/structured_spec.h"
#include "server/text/tokenizer.h"

namespace palu::structured {

// The grammar of a spec. kInvalidArgument with the field, and the path within a schema, as param.
Result<std::shared_ptr<const Grammar>> CompileSpec(const StructuredSpec& spec, ToolFormat format,
                                                   const Vocabulary& vocabulary);

// A model's side of structured output: its vocabulary, the threads that make masks, and the last
// grammars with their masks. Thread-safe; outlives the constraints' states.
class StructuredOutput {
 public:
  StructuredOutput(const Tokenizer& tokenizer, std::vector<int32_t> eos_token_ids,
                   ToolFormat tool_format);

  // Compiles, or takes from those that were asked for lately. stop_ids: further tokens that may end
  // the output.
  Result<std::shared_ptr<const TokenConstraint>> Constrain(const StructuredSpec& spec,
                                                           const std::vector<int32_t>& stop_ids);
  ToolFormat tool_format() const { return tool_format_; }

 private:
  using Cached = std::pair<std::string, std::shared_ptr<MaskedGrammar>>;

  const std::vector<int32_t> eos_token_ids_;
  const ToolFormat tool_format_;
  const std::shared_ptr<const Vocabulary> vocabulary_;
  std::mutex mutex_;
  std::list<Cached> cache_;  // latest first; guarded by mutex_
  MaskWorker worker_;        // last: its jobs use the above
};

}  // namespace palu::structured
