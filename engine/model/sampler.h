// Turns the sampling rows of a step into SampleArgs, and what the device chose into OutputTokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/step_staging.h"
#include "engine/step_batch.h"
#include "kernels/backend.h"

namespace palu {

// Used by the engine thread only; the backend must outlive it.
class Sampler {
 public:
  Sampler(Backend* backend, int vocab_size, std::vector<int32_t> eos_token_ids);

  // Chooses or scores one token per row of logits [R, V] f32, which may be overwritten, and appends
  // the results to out.
  void Run(std::span<const SampleRow> rows, const Tensor& logits, std::vector<OutputToken>* out);

 private:
  void AddParameters(std::span<const SampleRow> rows);
  void AddHistory(std::span<const SampleRow> rows);
  void AddBiases(std::span<const SampleRow> rows);
  void AddMasks(std::span<const SampleRow> rows);
  void BindViews(int64_t rows, SampleArgs* args);
  void ReadResults(std::span<const SampleRow> rows, std::vector<OutputToken>* out);

  // Where each array lies in upload_, bytes.
  struct Offsets {
    size_t temperature, top_k, top_p, min_p, seed, draw_index, forced_token, num_logprobs;
    size_t repetition_penalty, presence_penalty, frequency_penalty;
    size_t history, history_offsets, prompt_lens;
    size_t bias_tokens, bias_values, bias_offsets;
    size_t mask, mask_rows;
    size_t tokens, logprobs, ranks, top_tokens, top_logprobs, end;
  };

  Backend* backend_;
  int vocab_size_;
  std::vector<int32_t> eos_token_ids_;
  // Lists of a step that are made before they are added to upload_.
  std::vector<int32_t> history_, history_offsets_, prompt_lens_;
  std::vector<int32_t> bias_tokens_, bias_offsets_, mask_rows_;
  std::vector<float> bias_values_;
  std::vector<uint32_t> mask_;
  PackedUpload upload_;
  Offsets at_{};
  int64_t mask_count_ = 0;
};

}  // namespace palu
