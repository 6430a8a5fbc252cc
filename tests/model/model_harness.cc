#include "tests/model/model_harness.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "engine/model/safetensors.h"

namespace palu::testing {

ModelHarness::ModelHarness(const std::string& directory, const HarnessOptions& options) {
  greedy_.temperature = 0;
  EngineOptions engine;
  engine.device = options.device;
  engine.cpu_isa = options.isa;
  engine.cuda_activations = options.cuda_activations;
  engine.max_sequences = options.sequences;
  engine.step_tokens = options.step_tokens;
  CacheOptions cache;
  cache.format = options.format;
  cache.rotation = options.rotation;
  cache.block_tokens = options.block_tokens;
  cache.group_layers = false;
  const int context =
      options.max_context > 0 ? options.max_context : ModelConfig::Load(directory).max_context();
  const int blocks = (context + cache.block_tokens - 1) / cache.block_tokens;
  // No format needs more than 4 bytes a number and 8 bytes a head beside it.
  const ModelConfig config = ModelConfig::Load(directory);
  cache.memory_bytes = int64_t{options.sequences} * blocks * cache.block_tokens *
                       config.num_layers * 2 * config.num_kv_heads * (4 * config.head_dim + 64);
  ModelOptions model;
  model.path = directory;
  model.weights = options.weights;
  model.max_context_tokens = options.max_context;
  runner_ = ModelRunner::Load(model, engine, cache);
  std::vector<int32_t> ids(static_cast<size_t>(runner_->limits().num_blocks));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  std::shuffle(ids.begin(), ids.end(), std::mt19937(7));
  lengths_.assign(static_cast<size_t>(options.sequences), 0);
  for (int s = 0; s < options.sequences; ++s) {
    tables_.emplace_back(ids.begin() + s * blocks, ids.begin() + (s + 1) * blocks);
  }
}

StepBatch ModelHarness::Batch(const std::vector<Chunk>& chunks) {
  const int block = runner_->limits().block_tokens;
  StepBatch batch;
  batch.cu_seqlens = {0};
  for (const Chunk& chunk : chunks) {
    const auto s = static_cast<size_t>(chunk.sequence);
    for (const int32_t token : chunk.tokens) {
      const int position = lengths_[s]++;
      batch.token_ids.push_back(token);
      batch.positions.push_back(position);
      batch.slot_mapping.push_back(
          int64_t{tables_[s][static_cast<size_t>(position / block)]} * block + position % block);
    }
    batch.cu_seqlens.push_back(batch.num_tokens());
    batch.context_lens.push_back(lengths_[s]);
    batch.max_blocks = std::max(batch.max_blocks, (lengths_[s] + block - 1) / block);
  }
  for (size_t i = 0; i < chunks.size(); ++i) {
    const auto& table = tables_[static_cast<size_t>(chunks[i].sequence)];
    const int used = (batch.context_lens[i] + block - 1) / block;
    for (int b = 0; b < batch.max_blocks; ++b) {
      batch.block_tables.push_back(b < used ? table[static_cast<size_t>(b)] : -1);
    }
  }
  return batch;
}

std::vector<std::vector<float>> ModelHarness::Step(const std::vector<Chunk>& chunks) {
  StepBatch batch = Batch(chunks);
  for (int i = 0; i < batch.num_tokens(); ++i) {
    batch.rows.push_back({.token_index = i, .params = &greedy_});
  }
  const auto vocabulary = static_cast<size_t>(runner_->config().vocab_size);
  std::vector<std::vector<float>> rows(batch.rows.size());
  runner_->ObserveLogits([&](int64_t first, std::span<const float> logits) {
    for (size_t i = 0; i < logits.size() / vocabulary; ++i) {
      const auto row = logits.subspan(i * vocabulary, vocabulary);
      rows[static_cast<size_t>(first) + i].assign(row.begin(), row.end());
    }
  });
  runner_->Run(batch);
  runner_->ObserveLogits({});
  return rows;
}

std::vector<int32_t> ModelHarness::Greedy(int sequence, const std::vector<int32_t>& prompt,
                                          int count) {
  std::vector<int32_t> generated, next = prompt;
  for (int i = 0; i < count; ++i) {
    StepBatch batch = Batch({{sequence, next}});
    batch.rows.push_back({.token_index = batch.num_tokens() - 1, .params = &greedy_});
    next = {runner_->Run(batch).tokens.at(0).token};
    generated.push_back(next[0]);
  }
  return generated;
}

std::vector<float> ModelHarness::Score(int sequence, const std::vector<int32_t>& ids, int chunk) {
  std::vector<float> scores;
  const size_t last = ids.size() - 1;
  for (size_t begin = 0; begin < last; begin += static_cast<size_t>(chunk)) {
    const size_t end = std::min(last, begin + static_cast<size_t>(chunk));
    StepBatch batch = Batch({{sequence,
                              {ids.begin() + static_cast<std::ptrdiff_t>(begin),
                               ids.begin() + static_cast<std::ptrdiff_t>(end)}}});
    for (size_t i = begin; i < end; ++i) {
      batch.rows.push_back({.token_index = static_cast<int>(i - begin),
                            .params = &greedy_,
                            .forced_token = ids[i + 1],
                            .num_logprobs = 0});
    }
    for (const OutputToken& token : runner_->Run(batch).tokens) scores.push_back(token.logprob);
  }
  return scores;
}

std::string WhyNoCuda() {
  BackendOptions backend;
  backend.device = "cuda:0";
  try {
    CreateBackend(backend);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

std::vector<std::vector<float>> GoldenRows(const std::string& file, const std::string& name) {
  const Safetensors golden = Safetensors::OpenFile(file);
  const SafetensorsEntry& entry = *golden.Find(name);
  const auto columns = static_cast<size_t>(entry.shape.back());
  std::vector<std::vector<float>> rows(entry.data.size() / sizeof(float) / columns);
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].resize(columns);
    std::memcpy(rows[i].data(), entry.data.data() + i * columns * sizeof(float),
                columns * sizeof(float));
  }
  return rows;
}

std::vector<std::vector<int32_t>> GoldenIds(const std::string& file, const std::string& name) {
  const Safetensors golden = Safetensors::OpenFile(file);
  const SafetensorsEntry& entry = *golden.Find(name);
  const auto columns = static_cast<size_t>(entry.shape.back());
  std::vector<std::vector<int32_t>> rows(entry.data.size() / sizeof(int32_t) / columns);
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].resize(columns);
    std::memcpy(rows[i].data(), entry.data.data() + i * columns * sizeof(int32_t),
                columns * sizeof(int32_t));
  }
  return rows;
}

double RelativeError(const std::vector<std::vector<float>>& actual,
                     const std::vector<std::vector<float>>& expected) {
  if (actual.size() != expected.size()) return HUGE_VAL;
  double sum = 0, squares = 0, worst = 0;
  size_t count = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (actual[i].size() != expected[i].size()) return HUGE_VAL;
    for (size_t j = 0; j < expected[i].size(); ++j) {
      const double difference = std::fabs(double{actual[i][j]} - expected[i][j]);
      if (!(difference <= worst)) worst = std::isnan(difference) ? HUGE_VAL : difference;
      sum += expected[i][j];
      squares += double{expected[i][j]} * expected[i][j];
      ++count;
    }
  }
  const double mean = sum / static_cast<double>(count);
  return worst / std::sqrt(squares / static_cast<double>(count) - mean * mean);
}

}  // namespace palu::testing
