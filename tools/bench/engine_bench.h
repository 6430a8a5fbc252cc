// Times steps of a loaded model without a server around it: prefill and decode.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "engine/model/model_runner.h"

namespace palu::bench {

struct PrefillResult {
  int prompt_tokens = 0;
  double seconds = 0;  // median over the repetitions, whole prompt
};

struct DecodeResult {
  int batch = 0;
  int context_tokens = 0;         // at the first step
  double seconds = 0;             // median of one step
  double mean_seconds = 0;        // what other engines' benchmarks report
  StepRunner::PhaseTimes phases;  // of the median step
};

// Tokens [begin, begin + tokens) of a sequence.
struct StepPart {
  int begin = 0;
  int tokens = 1;
  bool draws = true;
};

// Not thread-safe; borrows the runner. Sequences take blocks from 0 upwards; before decode steps
// all of theirs are written once, since memory that never was is a single page of zeros on a host,
// and always in its caches. Time and bytes moved do not depend on the values.
class EngineBench {
 public:
  EngineBench(ModelRunner* runner, int step_tokens, int repetitions);

  // Throws std::invalid_argument when the prompt does not fit cache or context.
  PrefillResult Prefill(int prompt_tokens);
  // Each sequence decodes one greedy token a step, for `steps` steps. Throws likewise.
  DecodeResult Decode(int batch, int context_tokens, int steps);
  // Median seconds of one step of these parts, each of a sequence of its own. Throws likewise.
  double Step(const std::vector<StepPart>& parts);

 private:
  int BlocksOf(int tokens) const;
  void RequireFit(int batch, int tokens) const;
  // Appends tokens [begin, end) of sequence `index`, whose blocks start at index * stride_blocks;
  // its last token is sampled.
  void Append(int index, int begin, int end, int stride_blocks, StepBatch* batch);
  static void WriteBlocks(int blocks, StepBatch* batch);

  ModelRunner& runner_;
  const int step_tokens_;
  const int repetitions_;
  SamplingParams greedy_;
  std::mt19937 random_{1};
};

}  // namespace palu::bench
