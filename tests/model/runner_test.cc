// What ModelRunner::Run does with rows: sampling parameters, prompt scoring in more rows than
// sequences, block copies. And the bytes of layouts.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "engine/cache/latent_cache.h"
#include "engine/model/host_floats.h"
#include "engine/model/safetensors.h"
#include "tests/model/model_harness.h"
#include "tests/test_paths.h"

namespace palu::testing {
namespace {

std::string Zoo(const std::string& name) { return SourceDir() + "/tests/golden/zoo/" + name; }

std::vector<double> LogSoftmax(const std::vector<float>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - top);
  std::vector<double> result;
  for (const float x : logits) result.push_back(x - top - std::log(sum));
  return result;
}

// One sequence of eight tokens in block 0, one row per given parameters, all at the last token.
class Rows : public ::testing::Test {
 protected:
  Rows() {
    ModelOptions model;
    model.path = Zoo("llama31-gqa");
    model.max_context_tokens = 64;
    EngineOptions engine;
    engine.device = "cpu";
    engine.max_sequences = 2;
    engine.step_tokens = 8;
    CacheOptions cache;
    cache.format = "f32";
    cache.memory_bytes = 1 << 22;
    runner_ = ModelRunner::Load(model, engine, cache);
    batch_.token_ids = {1, 5, 9, 100, 200, 300, 17, 33};
    batch_.positions = {0, 1, 2, 3, 4, 5, 6, 7};
    batch_.slot_mapping = {0, 1, 2, 3, 4, 5, 6, 7};
    batch_.cu_seqlens = {0, 8};
    batch_.context_lens = {8};
    batch_.block_tables = {0};
    batch_.max_blocks = 1;
  }

  StepResult Run() {
    runner_->ObserveLogits([&](int64_t first, std::span<const float> logits) {
      for (size_t i = 0; i < logits.size(); i += 512) {
        logits_.resize(static_cast<size_t>(first) + i / 512);
        const auto row = logits.subspan(i, 512);
        logits_.emplace_back(row.begin(), row.end());
      }
    });
    return runner_->Run(batch_);
  }

  std::unique_ptr<ModelRunner> runner_;
  StepBatch batch_;
  std::vector<std::vector<float>> logits_;
};

TEST_F(Rows, GreedyLogprobsBiasMaskAndStops) {
  SamplingParams greedy, biased, masked, held;
  greedy.temperature = biased.temperature = masked.temperature = held.temperature = 0;
  biased.logit_bias = {{42, 1000.0f}, {-1, 5.0f}, {512, 5.0f}};
  masked.allowed_token_ids = {7, 300, 511, 9999};
  const auto row = [&](const SamplingParams& params) {
    batch_.rows.push_back({.token_index = 7, .params = &params, .num_logprobs = 3});
  };
  row(greedy);
  row(biased);
  row(masked);
  row(held);
  batch_.rows.back().hold_back_stop = true;
  const std::vector<float> first = (Run(), logits_.at(0));
  const auto best =
      static_cast<int32_t>(std::max_element(first.begin(), first.end()) - first.begin());
  held.stop_token_ids = {best, 100000};
  logits_.clear();
  const StepResult result = Run();
  ASSERT_EQ(result.tokens.size(), 4u);
  const std::vector<double> logprobs = LogSoftmax(first);

  EXPECT_EQ(result.tokens[0].token, best);
  EXPECT_EQ(result.tokens[0].rank, 1);
  EXPECT_NEAR(result.tokens[0].logprob, logprobs[static_cast<size_t>(best)], 1e-4);
  ASSERT_EQ(result.tokens[0].top.size(), 3u);
  EXPECT_EQ(result.tokens[0].top[0].token, best);
  EXPECT_GE(result.tokens[0].top[0].logprob, result.tokens[0].top[1].logprob);

  EXPECT_EQ(result.tokens[1].token, 42);
  EXPECT_NEAR(result.tokens[1].logprob, logprobs[42], 1e-4);  // of the raw distribution
  EXPECT_EQ(result.tokens[1].rank,
            1 + std::count_if(first.begin(), first.end(), [&](float x) { return x > first[42]; }));

  int32_t allowed = 7;
  for (const int32_t token : {300, 511}) {
    if (first[static_cast<size_t>(token)] > first[static_cast<size_t>(allowed)]) allowed = token;
  }
  EXPECT_EQ(result.tokens[2].token, allowed);
  EXPECT_NE(result.tokens[3].token, best);
}

// 2 sequences may run, but eight prompt tokens and two choices are scored in one step.
TEST_F(Rows, MoreRowsThanSequences) {
  SamplingParams greedy;
  greedy.temperature = 0;
  for (int i = 0; i < 7; ++i) {
    batch_.rows.push_back({.token_index = i,
                           .params = &greedy,
                           .forced_token = batch_.token_ids[static_cast<size_t>(i) + 1],
                           .num_logprobs = 0});
  }
  for (int i = 0; i < 3; ++i) batch_.rows.push_back({.token_index = 7, .params = &greedy});
  const StepResult result = Run();
  ASSERT_EQ(result.tokens.size(), 10u);
  ASSERT_EQ(logits_.size(), 10u);
  for (size_t i = 0; i < 7; ++i) {
    const auto token = static_cast<size_t>(batch_.token_ids[i + 1]);
    EXPECT_EQ(result.tokens[i].token, batch_.token_ids[i + 1]);
    EXPECT_NEAR(result.tokens[i].logprob, LogSoftmax(logits_[i])[token], 1e-4) << i;
    EXPECT_TRUE(result.tokens[i].top.empty());
  }
  EXPECT_EQ(logits_[7], logits_[9]);
  EXPECT_EQ(result.tokens[7].token, result.tokens[9].token);
}

TEST_F(Rows, PenaltiesReadTheHistory) {
  SamplingParams greedy, penalized;
  greedy.temperature = penalized.temperature = 0;
  batch_.rows.push_back({.token_index = 7, .params = &greedy});
  const int32_t best = Run().tokens.at(0).token;
  const std::vector<int32_t> history = {1, 2, best, best};
  penalized.frequency_penalty = 1000.0f;
  batch_.rows[0].params = &penalized;
  batch_.rows[0].history = &history;
  batch_.rows[0].prompt_length = 2;
  EXPECT_NE(Run().tokens.at(0).token, best);
  batch_.rows[0].prompt_length = 4;  // prompt tokens do not count for this penalty
  EXPECT_EQ(Run().tokens.at(0).token, best);
}

TEST_F(Rows, SeededDrawsDependOnSeedAndIndexOnly) {
  SamplingParams warm;
  warm.temperature = 5.0f;
  for (const auto& [seed, draw] : {std::pair{1, 0}, {1, 1}, {2, 0}, {1, 0}, {3, 7}}) {
    batch_.rows.push_back({.token_index = 7,
                           .params = &warm,
                           .seed = static_cast<uint64_t>(seed),
                           .draw_index = draw});
  }
  const StepResult all = Run();
  EXPECT_EQ(all.tokens[0].token, all.tokens[3].token);
  std::vector<int32_t> drawn;
  for (const OutputToken& token : all.tokens) drawn.push_back(token.token);
  EXPECT_GT(std::set<int32_t>(drawn.begin(), drawn.end()).size(), 2u);
  const SampleRow last = batch_.rows.back();
  batch_.rows = {last};
  EXPECT_EQ(Run().tokens.at(0).token, drawn.back());
}

// The next token may read the block's copy instead of the block.
TEST_F(Rows, BlockCopiesComeBeforeTheStep) {
  SamplingParams greedy;
  greedy.temperature = 0;
  Run();
  batch_.Clear();
  batch_.token_ids = {77};
  batch_.positions = {8};
  batch_.slot_mapping = {8};
  batch_.cu_seqlens = {0, 1};
  batch_.context_lens = {9};
  batch_.block_tables = {0};
  batch_.max_blocks = 1;
  batch_.rows.push_back({.token_index = 0, .params = &greedy});
  logits_.clear();
  Run();
  const std::vector<float> expected = logits_.at(0);
  constexpr auto kCopy = BlockMove::Kind::kCopy;
  batch_.block_moves = {{kCopy, 0, 3}, {kCopy, 3, 2}, {kCopy, 5, 3}};
  batch_.block_tables = {2};
  batch_.slot_mapping = {2 * 16 + 8};
  logits_.clear();
  Run();
  EXPECT_EQ(logits_.at(0), expected);
  EXPECT_GT(runner_->last_times().forward, 0);
}

TEST_F(Rows, BadWordsAreCutBeforeTheirLastToken) {
  SamplingParams free;
  free.temperature = 0;
  batch_.rows = {{.token_index = 7, .params = &free}};
  const int32_t best = Run().tokens[0].token;
  SamplingParams banned = free;
  const std::vector<int32_t> history = {17, 33, 400, 401};
  const auto drawn = [&](std::vector<int32_t> word) {
    banned.bad_words = {std::move(word)};
    batch_.rows = {{.token_index = 7, .params = &banned, .history = &history, .prompt_length = 2}};
    return Run().tokens[0].token;
  };
  EXPECT_NE(drawn({best}), best);
  EXPECT_NE(drawn({400, 401, best}), best);
  EXPECT_EQ(drawn({401, 400, best}), best);
  EXPECT_EQ(drawn({33, 400, 401, best}), best) << "words do not reach into the prompt";
}

TEST_F(Rows, HiddenStatesAreWhatTheHeadMultiplies) {
  batch_.pooled_tokens = {7, 0, 7};
  SamplingParams greedy;
  batch_.rows = {{.token_index = 7, .params = &greedy}};
  const StepResult result = Run();
  ASSERT_EQ(result.hidden.size(), 3u);
  EXPECT_EQ(result.hidden[0], result.hidden[2]);
  EXPECT_NE(result.hidden[0], result.hidden[1]);
  const Safetensors files = Safetensors::OpenDirectory(Zoo("llama31-gqa"));
  const SafetensorsEntry* head = files.Find("lm_head.weight");
  if (head == nullptr) head = files.Find("model.embed_tokens.weight");
  const std::vector<float> weight =
      ToFloats(head->data, head->dtype == "BF16" ? DType::kBF16 : DType::kF32);
  const size_t width = result.hidden[0].size();
  for (size_t v = 0; v < 512; ++v) {
    double logit = 0;
    for (size_t i = 0; i < width; ++i) logit += weight[v * width + i] * result.hidden[0][i];
    EXPECT_NEAR(logit, logits_[0][v], 1e-4);
  }
}

TEST_F(Rows, StepWithoutRowsOnlyFillsTheCache) { EXPECT_TRUE(Run().tokens.empty()); }

TEST(LatentLayout, EveryByteHasItsPlace) {
  ProjectionSpec int3{false, LatentFormat::kInt3, 2, {20, 13}, false};
  ProjectionSpec dense{true, LatentFormat::kBF16, 1, {32, 32, 32, 32}, false};
  const LatentLayout layout({{int3, dense}, {dense, int3}}, 10);
  ASSERT_EQ(layout.layers().size(), 2u);
  // 20 codes are padded to 24: 24 * 3 / 8 = 9 bytes; ten rows and 40 bytes of scales, each plane
  // aligned to 16.
  const LatentSegment& first = layout.layers()[0].key[0];
  EXPECT_EQ(first.codes_offset, 0);
  EXPECT_EQ(first.row_bytes, 9);
  EXPECT_EQ(first.scales_offset, 96);
  const LatentSegment& second = layout.layers()[0].key[1];
  EXPECT_EQ(second.codes_offset, 144);
  EXPECT_EQ(second.row_bytes, 6);
  EXPECT_EQ(second.scales_offset, 144 + 64);
  const LatentSegment& value = layout.layers()[0].value[0];
  EXPECT_EQ(value.codes_offset, 256);
  EXPECT_EQ(value.row_bytes, 64);
  EXPECT_EQ(layout.layers()[0].value[3].codes_offset, 256 + 3 * 640);
  EXPECT_EQ(layout.block_bytes(), 2 * (256 + 4 * 640));
  EXPECT_DOUBLE_EQ(layout.bytes_per_token(), 563.2);

  // No two planes overlap.
  std::vector<std::pair<int64_t, int64_t>> planes;
  for (const LatentLayout::Layer& layer : layout.layers()) {
    for (const auto* segments : {&layer.key, &layer.value}) {
      for (const LatentSegment& segment : *segments) {
        planes.emplace_back(segment.codes_offset, segment.codes_offset + segment.row_bytes * 10);
        if (IsQuantized(segment.format)) {
          planes.emplace_back(segment.scales_offset, segment.scales_offset + 40);
        }
      }
    }
  }
  std::sort(planes.begin(), planes.end());
  for (size_t i = 1; i < planes.size(); ++i) EXPECT_GE(planes[i].first, planes[i - 1].second);
  EXPECT_LE(planes.back().second, layout.block_bytes());
}

TEST(HostFloats, HalvesRoundToNearestEven) {
  const std::vector<std::pair<float, uint16_t>> halves = {
      {0.0f, 0x0000},           {-0.0f, 0x8000},         {1.0f, 0x3c00},
      {-2.5f, 0xc100},          {65504.0f, 0x7bff},      {65519.9f, 0x7bff},
      {65520.0f, 0x7c00},       {1e30f, 0x7c00},         {6.1035e-5f, 0x0400},
      {5.9604645e-8f, 0x0001},  {2.9802322e-8f, 0x0000}, {1.00048828125f, 0x3c00},
      {1.00146484375f, 0x3c02}, {2047.9999f, 0x6800}};
  for (const auto& [number, expected] : halves) {
    const auto bytes = FromFloats(std::vector<float>{number}, DType::kF16);
    uint16_t half;
    std::memcpy(&half, bytes.data(), 2);
    EXPECT_EQ(half, expected) << number;
  }
  for (int bits = 0; bits < 0x7c00; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const auto number = ToFloats(std::as_bytes(std::span(&half, 1)), DType::kF16);
    const auto back = FromFloats(number, DType::kF16);
    EXPECT_EQ(std::memcmp(back.data(), &half, 2), 0) << bits;
  }
}

TEST(HostFloats, BlockHadamardIsOrthonormal) {
  for (const int count : {1, 2, 12, 20, 24, 64, 96}) {
    std::vector<float> x(static_cast<size_t>(count) * 3);
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i * i));
    const std::vector<float> before = x;
    HadamardInPlace(x.data() + 1, count, 3);
    double norm = 0, norm_before = 0;
    for (int i = 0; i < count; ++i) {
      norm += x[static_cast<size_t>(i) * 3 + 1] * x[static_cast<size_t>(i) * 3 + 1];
      norm_before +=
          before[static_cast<size_t>(i) * 3 + 1] * before[static_cast<size_t>(i) * 3 + 1];
    }
    EXPECT_NEAR(norm, norm_before, 1e-4);
    EXPECT_EQ(x[0], before[0]);
    if (count == 12) {
      EXPECT_NEAR(x[1], (before[1] + before[4] + before[7] + before[10]) / 2, 1e-5);
    }
    HadamardInPlace(x.data() + 1, count, 3);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], before[i], 1e-5);
  }
}

}  // namespace
}  // namespace palu::testing
