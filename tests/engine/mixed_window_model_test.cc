// Gemma 3: five layers that slide for one that sees everything. The blocks that the first five give
// back serve others, and nothing about the answers changes.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/model_runner.h"
#include "engine/model/safetensors.h"
#include "tests/engine/engine_fixture.h"
#include "tests/test_paths.h"

namespace palu {
namespace {

using testing::Answer;
using testing::ReadAll;

constexpr int kContext = 256;
constexpr int kBlock = 4;
// Six layers, one to a group, with keys and values of 2 heads of 32 in f32.
constexpr int64_t kBlockBytes = int64_t{kBlock} * 2 * 64 * 4;

std::string Gemma() { return testing::SourceDir() + "/tests/golden/zoo/gemma3"; }

std::vector<int32_t> Golden(const char* name) {
  const Safetensors file = Safetensors::OpenFile(Gemma() + "/golden.safetensors");
  const SafetensorsEntry& entry = *file.Find(name);
  const auto* ids = reinterpret_cast<const int32_t*>(entry.data.data());
  return {ids, ids + entry.shape.back()};
}

class MixedWindowModel : public ::testing::Test {
 protected:
  struct Setup {
    bool grouped = true;
    int blocks = 2000;
    int host_blocks = 0;
    int step_tokens = 64;
    bool prefix_caching = false;
  };

  void Start(const Setup& setup) {
    engine_.reset();
    EngineOptions options;
    options.device = "cpu";
    options.step_tokens = setup.step_tokens;
    options.max_sequences = 16;
    options.prefix_caching = setup.prefix_caching;
    ModelOptions model;
    model.path = Gemma();
    model.max_context_tokens = kContext;
    CacheOptions cache;
    cache.format = "f32";
    cache.block_tokens = kBlock;
    cache.group_layers = setup.grouped;
    cache.memory_bytes = setup.blocks * kBlockBytes;
    cache.host_memory = setup.host_blocks * kBlockBytes;
    runner_ = ModelRunner::Load(model, options, cache);
    engine_ = std::make_unique<Engine>(options, runner_->limits(), runner_.get());
  }

  static std::vector<Request> Requests() {
    std::vector<Request> requests;
    for (int i = 0; i < 8; ++i) {
      Request request;
      const int length = 3 + 19 * i;
      for (int t = 0; t < length; ++t) request.prompt.push_back(3 + (t * 7 + t * t * i) % 500);
      request.sampling.max_tokens = 90 - 8 * i;
      request.sampling.ignore_eos = true;
      request.sampling.seed = 40 + i;
      request.sampling.temperature = i % 2 == 0 ? 0.0f : 0.9f;
      request.sampling.num_logprobs = 1;
      if (i % 4 == 2) request.n = 3;
      if (i % 5 == 3) request.sampling.num_prompt_logprobs = 0;
      requests.push_back(std::move(request));
    }
    return requests;
  }

  std::vector<Answer> Run(const std::vector<Request>& requests, bool together) {
    std::vector<RequestHandle> handles;
    std::vector<Answer> answers;
    for (const Request& request : requests) {
      handles.push_back(std::move(*engine_->Submit(request)));
      if (!together) answers.push_back(ReadAll(handles.back(), request.n));
    }
    for (size_t i = 0; together && i < requests.size(); ++i) {
      answers.push_back(ReadAll(handles[i], requests[i].n));
    }
    const MetricsSnapshot s = engine_->metrics();
    EXPECT_EQ(s.requests_running + s.requests_waiting + s.blocks_used, 0);
    return answers;
  }

  static void ExpectEqual(const std::vector<Answer>& a, const std::vector<Answer>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      SCOPED_TRACE(i);
      ASSERT_TRUE(a[i].status.ok() && b[i].status.ok());
      for (size_t c = 0; c < a[i].choices.size(); ++c) {
        ASSERT_EQ(a[i].choices[c].tokens, b[i].choices[c].tokens);
        for (size_t t = 0; t < a[i].choices[c].details.size(); ++t) {
          ASSERT_EQ(a[i].choices[c].details[t].logprob, b[i].choices[c].details[t].logprob);
        }
      }
      ASSERT_EQ(a[i].prompt_logprobs.size(), b[i].prompt_logprobs.size());
      for (size_t t = 0; t < a[i].prompt_logprobs.size(); ++t) {
        ASSERT_EQ(a[i].prompt_logprobs[t].logprob, b[i].prompt_logprobs[t].logprob);
      }
    }
  }

  std::unique_ptr<ModelRunner> runner_;
  std::unique_ptr<Engine> engine_;  // goes before the runner
};

TEST_F(MixedWindowModel, GreedyAsTransformers) {
  Request request;
  request.prompt = Golden("greedy_prompt");
  const std::vector<int32_t> expected = Golden("greedy");
  ASSERT_GT(request.prompt.size() + expected.size(), 40u) << "a window is 16";
  request.sampling.max_tokens = static_cast<int>(expected.size());
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  Start({.blocks = 512, .step_tokens = 7});
  EXPECT_EQ(runner_->limits().group_windows, (std::vector<int>{0, 16, 16, 16, 16, 16}));
  EXPECT_EQ(Run({request}, false)[0].choices[0].tokens, expected);
}

TEST_F(MixedWindowModel, NothingBesideARequestChangesIt) {
  const std::vector<Request> requests = Requests();
  Start({.grouped = false});
  EXPECT_EQ(runner_->limits().group_windows, std::vector<int>{0});
  const std::vector<Answer> one_table = Run(requests, false);

  Start({});
  const int most = static_cast<int>(runner_->limits().demand().BlocksOf(kContext));
  ExpectEqual(Run(requests, false), one_table);
  ExpectEqual(Run(requests, true), one_table);
  EXPECT_EQ(engine_->metrics().preemptions, 0u);

  // Preempted, in small chunks.
  Start({.blocks = most, .step_tokens = 17});
  ExpectEqual(Run(requests, true), one_table);
  EXPECT_GT(engine_->metrics().preemptions, 0u);

  // Through the host tier.
  Start({.blocks = most, .host_blocks = 300, .step_tokens = 17, .prefix_caching = true});
  ExpectEqual(Run(requests, true), one_table);
  EXPECT_GT(engine_->metrics().preemptions_swapped, 0u);
  ExpectEqual(Run(requests, true), one_table);
  EXPECT_GT(engine_->metrics().host_loaded_blocks, 0u);

  // From the prefix cache.
  Start({.prefix_caching = true});
  Run(requests, true);
  ExpectEqual(Run(requests, true), one_table);
  EXPECT_GT(engine_->metrics().prefix_hits_tokens, 0u);
}

// What is held, by the gauge that /metrics shows, against the arithmetic.
TEST_F(MixedWindowModel, LongAnswersHoldTheFullLayersAndAWindowOfTheOthers) {
  constexpr int kRequests = 4, kWindow = 16, kStep = 8;
  Start({.blocks = 5000, .step_tokens = kStep});
  const CacheReport& report = runner_->cache_report();
  EXPECT_EQ(report.block_bytes, kBlockBytes);
  EXPECT_EQ(report.bytes_per_token, 6.0 * kBlockBytes / kBlock);
  EXPECT_EQ(report.bytes_per_token_beyond_windows, 1.0 * kBlockBytes / kBlock);
  const int full = kContext / kBlock;
  const int at_most = full + 5 * ((kWindow + kStep) / kBlock + 2);
  EXPECT_DOUBLE_EQ(report.full_length_requests, 5000.0 / at_most);
  EXPECT_EQ(report.capacity_tokens, 5000 * kContext / at_most);
  EXPECT_EQ(report.capacity_bytes, 5000 * kBlockBytes);

  std::vector<RequestHandle> handles;
  for (int i = 0; i < kRequests; ++i) {
    Request request;
    for (int t = 0; t < 30; ++t) request.prompt.push_back(3 + (t * 7 + i) % 500);
    request.sampling.max_tokens = kContext - 30;
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    handles.push_back(std::move(*engine_->Submit(std::move(request))));
  }
  int most = 0;
  while (!engine_->idle()) {
    most = std::max(most, engine_->metrics().blocks_used);
    std::this_thread::yield();
  }
  // All four grow to 256 tokens side by side.
  const int decoding = full + 5 * (kWindow / kBlock + 1);
  EXPECT_LE(most, kRequests * decoding);
  EXPECT_GE(most, kRequests * full * 3 / 4);
  EXPECT_LT(most * 3, kRequests * 6 * full) << "of what one table for all layers takes";
}

TEST_F(MixedWindowModel, APoolThatIsTooSmallIsRefusedWithWhatARequestTakes) {
  const int needed = kContext / kBlock + 5 * ((16 + 8) / kBlock + 2);
  try {
    Start({.blocks = needed - 1, .step_tokens = 8});
    FAIL() << "started";
  } catch (const LoadError& error) {
    EXPECT_NE(std::string(error.what()).find(" = " + std::to_string(needed) + " blocks"),
              std::string::npos)
        << error.what();
  }
  Start({.blocks = needed, .step_tokens = 8});
  EXPECT_DOUBLE_EQ(runner_->cache_report().full_length_requests, 1.0);
}

}  // namespace
}  // namespace palu
