// A loaded model driven step by step, with a block table per sequence and no engine.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/model_runner.h"

namespace palu::testing {

struct HarnessOptions {
  std::string format = "f32";
  std::string rotation = "auto";
  std::string isa = "auto";
  std::string device = "cpu";
  std::string cuda_activations = "bf16";
  std::string weights = "auto";
  int max_context = 0;  // 0: the model's
  int sequences = 2;
  int step_tokens = 512;
  int block_tokens = 16;
};

// Tokens that one sequence advances by in a step.
struct Chunk {
  int sequence = 0;
  std::vector<int32_t> tokens;
};

class ModelHarness {
 public:
  explicit ModelHarness(const std::string& directory, const HarnessOptions& options = {});

  // Logits of every token of the step, in the order of the chunks, [tokens][vocabulary].
  std::vector<std::vector<float>> Step(const std::vector<Chunk>& chunks);
  // Forgets what a sequence has cached.
  void Restart(int sequence) { lengths_[static_cast<size_t>(sequence)] = 0; }
  // Feeds prompt and returns count tokens chosen greedily by the sampler.
  std::vector<int32_t> Greedy(int sequence, const std::vector<int32_t>& prompt, int count);
  // log p(ids[i + 1] | ids[..i]) for every i, by the sampler's scoring of forced tokens.
  std::vector<float> Score(int sequence, const std::vector<int32_t>& ids, int chunk = 512);

  ModelRunner& runner() { return *runner_; }

 private:
  StepBatch Batch(const std::vector<Chunk>& chunks);

  std::unique_ptr<ModelRunner> runner_;
  std::vector<int> lengths_;
  std::vector<std::vector<int32_t>> tables_;  // shuffled, all blocks of a full-length sequence
  SamplingParams greedy_;
};

// Why there is no cuda:0; empty where there is one.
std::string WhyNoCuda();

// [rows, columns] of a golden file as rows.
std::vector<std::vector<float>> GoldenRows(const std::string& file, const std::string& name);
std::vector<std::vector<int32_t>> GoldenIds(const std::string& file, const std::string& name);

// Largest absolute difference over the standard deviation of the expected logits.
double RelativeError(const std::vector<std::vector<float>>& actual,
                     const std::vector<std::vector<float>>& expected);

}  // namespace palu::testing
