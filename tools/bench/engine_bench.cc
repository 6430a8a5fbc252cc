#include "tools/bench/engine_bench.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace palu::bench {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

EngineBench::EngineBench(ModelRunner* runner, int step_tokens, int repetitions)
    : runner_(*runner), step_tokens_(step_tokens), repetitions_(repetitions) {
  greedy_.temperature = 0;
}

int EngineBench::BlocksOf(int tokens) const {
  const int block = runner_.cache_report().block_tokens;
  return (tokens + block - 1) / block;
}

void EngineBench::RequireFit(int batch, int tokens) const {
  const EngineLimits limits = runner_.limits();
  if (tokens > limits.max_context_tokens) {
    throw std::invalid_argument(std::to_string(tokens) + " tokens of context, but the limit is " +
                                std::to_string(limits.max_context_tokens));
  }
  const int64_t blocks = int64_t{batch} * BlocksOf(tokens);
  if (blocks > limits.num_blocks) {
    throw std::invalid_argument(std::to_string(batch) + " sequences of " + std::to_string(tokens) +
                                " tokens need " + std::to_string(blocks) +
                                " blocks, but the cache has " + std::to_string(limits.num_blocks));
  }
}

void EngineBench::Append(int index, int begin, int end, int stride_blocks, StepBatch* batch) {
  const int block_tokens = runner_.cache_report().block_tokens;
  std::uniform_int_distribution<int32_t> token(0, runner_.config().vocab_size - 1);
  if (batch->cu_seqlens.empty()) batch->cu_seqlens.push_back(0);
  for (int position = begin; position < end; ++position) {
    batch->token_ids.push_back(token(random_));
    batch->positions.push_back(position);
    const int64_t block = int64_t{index} * stride_blocks + position / block_tokens;
    batch->slot_mapping.push_back(block * block_tokens + position % block_tokens);
  }
  batch->cu_seqlens.push_back(batch->num_tokens());
  batch->context_lens.push_back(end);
  batch->max_blocks = stride_blocks;
  for (int i = 0; i < stride_blocks; ++i) {
    batch->block_tables.push_back(i < BlocksOf(end) ? index * stride_blocks + i : -1);
  }
  SampleRow row;
  row.token_index = batch->num_tokens() - 1;
  row.params = &greedy_;
  batch->rows.push_back(row);
}

void EngineBench::WriteBlocks(int blocks, StepBatch* batch) {
  for (int32_t to = 1; to < blocks; ++to) {
    batch->block_moves.push_back({BlockMove::Kind::kCopy, 0, to});
  }
}

PrefillResult EngineBench::Prefill(int prompt_tokens) {
  RequireFit(1, prompt_tokens);
  std::vector<double> seconds;
  for (int repetition = 0; repetition < repetitions_; ++repetition) {
    double total = 0;
    for (int begin = 0; begin < prompt_tokens; begin += step_tokens_) {
      StepBatch batch;
      Append(0, begin, std::min(prompt_tokens, begin + step_tokens_), BlocksOf(prompt_tokens),
             &batch);
      const auto start = std::chrono::steady_clock::now();
      runner_.Run(batch);
      total += SecondsSince(start);
    }
    seconds.push_back(total);
  }
  std::sort(seconds.begin(), seconds.end());
  return {prompt_tokens, seconds[seconds.size() / 2]};
}

DecodeResult EngineBench::Decode(int batch_size, int context_tokens, int steps) {
  const int tokens = context_tokens + steps * repetitions_;
  RequireFit(batch_size, tokens);
  struct Sample {
    double seconds;
    StepRunner::PhaseTimes phases;
  };
  std::vector<Sample> samples;
  for (int step = -1; step < steps * repetitions_; ++step) {
    StepBatch batch;
    const int position = context_tokens + std::max(step, 0);
    for (int i = 0; i < batch_size; ++i) {
      Append(i, position, position + 1, BlocksOf(tokens), &batch);
    }
    if (step < 0) {
      WriteBlocks(batch_size * BlocksOf(tokens), &batch);
      runner_.Run(batch);
      continue;
    }
    const auto start = std::chrono::steady_clock::now();
    runner_.Run(batch);
    samples.push_back({SecondsSince(start), runner_.last_times()});
  }
  double total = 0;
  for (const Sample& sample : samples) total += sample.seconds;
  std::sort(samples.begin(), samples.end(),
            [](const Sample& a, const Sample& b) { return a.seconds < b.seconds; });
  const Sample& median = samples[samples.size() / 2];
  return {batch_size, context_tokens, median.seconds, total / static_cast<double>(samples.size()),
          median.phases};
}

double EngineBench::Step(const std::vector<StepPart>& parts) {
  int longest = 0;
  for (const StepPart& part : parts) longest = std::max(longest, part.begin + part.tokens);
  const int sequences = static_cast<int>(parts.size());
  RequireFit(sequences, longest);
  std::vector<double> seconds;
  for (int repetition = -1; repetition < repetitions_; ++repetition) {
    StepBatch batch;
    for (int i = 0; i < sequences; ++i) {
      const StepPart& part = parts[i];
      Append(i, part.begin, part.begin + part.tokens, BlocksOf(longest), &batch);
      if (!part.draws) batch.rows.pop_back();
    }
    if (repetition < 0) WriteBlocks(sequences * BlocksOf(longest), &batch);
    const auto start = std::chrono::steady_clock::now();
    runner_.Run(batch);
    if (repetition >= 0) seconds.push_back(SecondsSince(start));
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

}  // namespace palu::bench
