#include "engine/model/sampler.h"

#include <algorithm>
#include <limits>

#include "kernels/check.h"

namespace palu {
namespace {

// Whether the answer so far ends with all of the word but its last token.
bool Completes(const SampleRow& row, const std::vector<int32_t>& word) {
  if (row.history == nullptr) return false;
  const size_t prefix = word.size() - 1;
  const size_t answer = row.history->size() - static_cast<size_t>(row.prompt_length);
  return prefix <= answer && std::equal(word.begin(), word.end() - 1,
                                        row.history->end() - static_cast<std::ptrdiff_t>(prefix));
}

}  // namespace

Sampler::Sampler(Backend* backend, int vocab_size, std::vector<int32_t> eos_token_ids)
    : backend_(backend),
      vocab_size_(vocab_size),
      eos_token_ids_(std::move(eos_token_ids)),
      upload_(backend) {}

void Sampler::Run(std::span<const SampleRow> rows, const Tensor& logits,
                  std::vector<OutputToken>* out) {
  const auto count = static_cast<int64_t>(rows.size());
  SampleArgs args;
  args.logits = logits;
  upload_.Clear();
  AddParameters(rows);
  AddHistory(rows);
  AddBiases(rows);
  AddMasks(rows);
  at_.tokens = upload_.AddSpace(rows.size() * sizeof(int32_t));
  at_.logprobs = upload_.AddSpace(rows.size() * sizeof(float));
  at_.ranks = upload_.AddSpace(rows.size() * sizeof(int32_t));
  at_.top_tokens = upload_.AddSpace(rows.size() * kMaxLogprobs * sizeof(int32_t));
  at_.top_logprobs = upload_.AddSpace(rows.size() * kMaxLogprobs * sizeof(float));
  at_.end = upload_.AddSpace(0);
  upload_.Upload();
  BindViews(count, &args);
  backend_->Sample(args);
  upload_.Download(at_.tokens, at_.end);
  ReadResults(rows, out);
}

void Sampler::AddParameters(std::span<const SampleRow> rows) {
  const auto add = [&]<typename T>(T (*get)(const SampleRow&)) {
    return upload_.AddEach(rows.size(), [&](size_t r) { return get(rows[r]); });
  };
  at_.temperature = add(+[](const SampleRow& row) { return row.params->temperature; });
  at_.top_k = add(+[](const SampleRow& row) { return int32_t{row.params->top_k}; });
  at_.top_p = add(+[](const SampleRow& row) { return row.params->top_p; });
  at_.min_p = add(+[](const SampleRow& row) { return row.params->min_p; });
  at_.seed = add(+[](const SampleRow& row) { return static_cast<int64_t>(row.seed); });
  at_.draw_index = add(+[](const SampleRow& row) { return row.draw_index; });
  at_.forced_token = add(+[](const SampleRow& row) { return row.forced_token; });
  at_.num_logprobs = add(+[](const SampleRow& row) { return int32_t{row.num_logprobs}; });
  at_.repetition_penalty =
      add(+[](const SampleRow& row) { return row.params->repetition_penalty; });
  at_.presence_penalty = add(+[](const SampleRow& row) { return row.params->presence_penalty; });
  at_.frequency_penalty = add(+[](const SampleRow& row) { return row.params->frequency_penalty; });
}

void Sampler::AddHistory(std::span<const SampleRow> rows) {
  history_.clear();
  history_offsets_.assign(1, 0);
  prompt_lens_.clear();
  for (const SampleRow& row : rows) {
    const SamplingParams& params = *row.params;
    const bool penalties = params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
                           params.frequency_penalty != 0.0f;
    const bool used = penalties && row.history != nullptr;
    if (used) {
      // A step later it is one token longer: twice at once.
      const size_t size = history_.size() + row.history->size();
      if (size > history_.capacity()) history_.reserve(2 * size);
      history_.insert(history_.end(), row.history->begin(), row.history->end());
    }
    history_offsets_.push_back(static_cast<int32_t>(history_.size()));
    prompt_lens_.push_back(used ? row.prompt_length : 0);
  }
  at_.history = upload_.Add(std::span<const int32_t>(history_));
  at_.history_offsets = upload_.Add(std::span<const int32_t>(history_offsets_));
  at_.prompt_lens = upload_.Add(std::span<const int32_t>(prompt_lens_));
}

void Sampler::AddBiases(std::span<const SampleRow> rows) {
  bias_tokens_.clear();
  bias_values_.clear();
  bias_offsets_.assign(1, 0);
  const auto add = [&](int32_t token, float value) {
    // A stop id may lie outside of the vocabulary: it can never be chosen anyway.
    if (token < 0 || token >= vocab_size_) return;
    bias_tokens_.push_back(token);
    bias_values_.push_back(value);
  };
  const float banned = -std::numeric_limits<float>::infinity();
  for (const SampleRow& row : rows) {
    for (const auto& [token, value] : row.params->logit_bias) add(token, value);
    // A grammar must always find a token: there a bad word is only a last resort.
    const float unwanted = row.constraint == nullptr ? banned : -1e4f;
    for (const auto& word : row.params->bad_words) {
      if (Completes(row, word)) add(word.back(), unwanted);
    }
    // Where the grammar has ended, holding back the end would leave nothing.
    if (row.hold_back_stop && (row.constraint == nullptr || !row.constraint->must_stop())) {
      for (const int32_t token : row.params->stop_token_ids) add(token, banned);
      if (!row.params->ignore_eos) {
        for (const int32_t token : eos_token_ids_) add(token, banned);
      }
    }
    bias_offsets_.push_back(static_cast<int32_t>(bias_tokens_.size()));
  }
  at_.bias_tokens = upload_.Add(std::span<const int32_t>(bias_tokens_));
  at_.bias_values = upload_.Add(std::span<const float>(bias_values_));
  at_.bias_offsets = upload_.Add(std::span<const int32_t>(bias_offsets_));
}

void Sampler::AddMasks(std::span<const SampleRow> rows) {
  const size_t words = static_cast<size_t>(vocab_size_ + 31) / 32;
  mask_rows_.clear();
  mask_.clear();
  mask_count_ = 0;
  for (const SampleRow& row : rows) {
    const std::vector<int32_t>& allowed = row.params->allowed_token_ids;
    if (allowed.empty() && row.constraint == nullptr) {
      mask_rows_.push_back(-1);
      continue;
    }
    mask_rows_.push_back(static_cast<int32_t>(mask_count_++));
    mask_.resize(mask_.size() + words);
    uint32_t* bits = mask_.data() + mask_.size() - words;
    if (row.constraint != nullptr) {
      const std::span<const uint32_t> fitting = row.constraint->Mask();
      std::copy_n(fitting.begin(), std::min(words, fitting.size()), bits);
      continue;
    }
    for (const int32_t token : allowed) {
      if (token >= 0 && token < vocab_size_) bits[token / 32] |= 1u << token % 32;
    }
  }
  at_.mask = upload_.Add(std::span<const uint32_t>(mask_));
  at_.mask_rows = upload_.Add(std::span<const int32_t>(mask_rows_));
}

void Sampler::BindViews(int64_t rows, SampleArgs* args) {
  const auto view = [&](size_t offset, DType dtype) { return upload_.View(offset, dtype, {rows}); };
  const auto list = [&](size_t offset, DType dtype, size_t count) {
    return upload_.View(offset, dtype, {static_cast<int64_t>(count)});
  };
  args->temperature = view(at_.temperature, DType::kF32);
  args->top_k = view(at_.top_k, DType::kI32);
  args->top_p = view(at_.top_p, DType::kF32);
  args->min_p = view(at_.min_p, DType::kF32);
  args->seed = view(at_.seed, DType::kI64);
  args->draw_index = view(at_.draw_index, DType::kI64);
  args->forced_token = view(at_.forced_token, DType::kI32);
  args->num_logprobs = view(at_.num_logprobs, DType::kI32);
  args->repetition_penalty = view(at_.repetition_penalty, DType::kF32);
  args->presence_penalty = view(at_.presence_penalty, DType::kF32);
  args->frequency_penalty = view(at_.frequency_penalty, DType::kF32);
  args->history = list(at_.history, DType::kI32, history_.size());
  args->history_offsets = list(at_.history_offsets, DType::kI32, history_offsets_.size());
  args->prompt_lens = view(at_.prompt_lens, DType::kI32);
  args->bias_tokens = list(at_.bias_tokens, DType::kI32, bias_tokens_.size());
  args->bias_values = list(at_.bias_values, DType::kF32, bias_values_.size());
  args->bias_offsets = list(at_.bias_offsets, DType::kI32, bias_offsets_.size());
  if (mask_count_ > 0) {
    args->mask = upload_.View(at_.mask, DType::kI32, {mask_count_, (vocab_size_ + 31) / 32});
  }
  args->mask_rows = view(at_.mask_rows, DType::kI32);
  args->tokens = view(at_.tokens, DType::kI32);
  args->logprobs = view(at_.logprobs, DType::kF32);
  args->ranks = view(at_.ranks, DType::kI32);
  args->top_tokens = upload_.View(at_.top_tokens, DType::kI32, {rows, kMaxLogprobs});
  args->top_logprobs = upload_.View(at_.top_logprobs, DType::kF32, {rows, kMaxLogprobs});
}

void Sampler::ReadResults(std::span<const SampleRow> rows, std::vector<OutputToken>* out) {
  const auto* tokens = upload_.Host<int32_t>(at_.tokens);
  const auto* logprobs = upload_.Host<float>(at_.logprobs);
  const auto* ranks = upload_.Host<int32_t>(at_.ranks);
  for (size_t r = 0; r < rows.size(); ++r) {
    OutputToken token;
    token.token = tokens[r];
    if (rows[r].num_logprobs >= 0) {
      PALU_CHECK(rows[r].num_logprobs <= kMaxLogprobs);
      token.logprob = logprobs[r];
      token.rank = ranks[r];
      const auto* top_tokens = upload_.Host<int32_t>(at_.top_tokens) + r * kMaxLogprobs;
      const auto* top_logprobs = upload_.Host<float>(at_.top_logprobs) + r * kMaxLogprobs;
      const int shown = std::min(rows[r].num_logprobs, vocab_size_);
      token.top.reserve(static_cast<size_t>(shown));
      for (int i = 0; i < shown; ++i) {
        token.top.push_back({top_tokens[i], top_logprobs[i]});
      }
    }
    out->push_back(std::move(token));
  }
}

}  // namespace palu
