// The engine over the bundled model: what a request gives may not depend on what runs beside it, on
// chunking, preemption or prefix hits, bit for bit, also from a quantized cache.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/model_runner.h"
#include "tests/engine/engine_fixture.h"
#include "tests/test_paths.h"

namespace palu {
namespace {

using testing::Answer;
using testing::ReadAll;

constexpr int kContext = 256;

class BundledModel : public ::testing::TestWithParam<const char*> {
 protected:
  // A pool of `requests` full-length requests.
  void Start(int requests, EngineOptions options, int host_blocks = 0) {
    engine_.reset();
    options.device = "cpu";
    ModelOptions model;
    model.path = testing::SourceDir() + "/models/classics-14m";
    model.max_context_tokens = kContext;
    CacheOptions cache;
    cache.format = GetParam();
    cache.memory_bytes = requests * block_bytes_ * (kContext / cache.block_tokens);
    cache.host_memory = host_blocks * block_bytes_;
    if (block_bytes_ == 0) cache.memory_bytes = int64_t{64} << 20;
    runner_ = ModelRunner::Load(model, options, cache);
    if (block_bytes_ == 0) {
      block_bytes_ = runner_->cache_report().block_bytes;
      Start(requests, options, host_blocks);
      return;
    }
    engine_ = std::make_unique<Engine>(options, runner_->limits(), runner_.get());
  }

  static std::vector<Request> Requests() {
    std::ifstream file(testing::SourceDir() + "/tests/golden/classics-14m.json");
    const auto cases = nlohmann::json::parse(file).at("cases");
    std::vector<Request> requests;
    // The last seven: three short prompts, four long ones.
    for (size_t i = 0; i < 7; ++i) {
      Request request;
      request.prompt = cases.at(cases.size() - 7 + i).at("ids").get<std::vector<int32_t>>();
      if (request.prompt.size() > 100) request.prompt.resize(70 + 5 * i);
      request.sampling.max_tokens = 20 + 5 * static_cast<int>(i);
      request.sampling.ignore_eos = true;
      request.sampling.seed = 100 + i;
      request.sampling.temperature = i % 2 == 0 ? 0.0f : 0.9f;
      request.sampling.num_logprobs = 1;
      if (i % 3 == 1) request.sampling.repetition_penalty = 1.2f;
      if (i % 4 == 2) request.n = 3;
      if (i % 5 == 3) request.sampling.num_prompt_logprobs = 0;
      requests.push_back(std::move(request));
    }
    return requests;
  }

  Answer Run(const Request& request) {
    auto handle = engine_->Submit(request);
    EXPECT_TRUE(handle.has_value());
    return ReadAll(*handle, request.n);
  }

  std::vector<Answer> RunTogether(const std::vector<Request>& requests) {
    std::vector<RequestHandle> handles;
    for (const Request& request : requests) handles.push_back(std::move(*engine_->Submit(request)));
    std::vector<Answer> answers;
    for (size_t i = 0; i < requests.size(); ++i) {
      answers.push_back(ReadAll(handles[i], requests[i].n));
    }
    return answers;
  }

  static void ExpectEqual(const Answer& a, const Answer& b) {
    ASSERT_TRUE(a.status.ok() && b.status.ok());
    ASSERT_EQ(a.choices.size(), b.choices.size());
    for (size_t c = 0; c < a.choices.size(); ++c) {
      ASSERT_EQ(a.choices[c].tokens, b.choices[c].tokens) << "choice " << c;
      for (size_t t = 0; t < a.choices[c].details.size(); ++t) {
        ASSERT_EQ(a.choices[c].details[t].logprob, b.choices[c].details[t].logprob) << t;
      }
    }
    ASSERT_EQ(a.prompt_logprobs.size(), b.prompt_logprobs.size());
    for (size_t t = 0; t < a.prompt_logprobs.size(); ++t) {
      ASSERT_EQ(a.prompt_logprobs[t].logprob, b.prompt_logprobs[t].logprob) << t;
    }
  }

  int64_t block_bytes_ = 0;
  std::unique_ptr<ModelRunner> runner_;
  std::unique_ptr<Engine> engine_;  // goes before the runner
};

TEST_P(BundledModel, NothingBesideARequestChangesIt) {
  const std::vector<Request> requests = Requests();
  ASSERT_EQ(requests.size(), 7u);
  EngineOptions roomy;
  roomy.prefix_caching = false;
  Start(16, roomy);
  std::vector<Answer> alone;
  for (const Request& request : requests) alone.push_back(Run(request));

  const std::vector<Answer> together = RunTogether(requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE("together, request " + std::to_string(i));
    ExpectEqual(together[i], alone[i]);
  }

  EngineOptions tight = roomy;
  tight.step_tokens = 13;
  tight.max_sequences = 8;
  Start(1, tight);
  const std::vector<Answer> squeezed = RunTogether(requests);
  EXPECT_GT(engine_->metrics().preemptions, 0u);
  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE("squeezed, request " + std::to_string(i));
    ExpectEqual(squeezed[i], alone[i]);
  }

  tight.prefix_caching = true;
  Start(1, tight, 24);
  RunTogether(requests);
  EXPECT_GT(engine_->metrics().preemptions_swapped, 0u);
  const std::vector<Answer> swapped = RunTogether(requests);
  EXPECT_GT(engine_->metrics().host_loaded_blocks, 0u);
  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE("through the host tier, request " + std::to_string(i));
    ExpectEqual(swapped[i], alone[i]);
  }

  EngineOptions cached = roomy;
  cached.prefix_caching = true;
  Start(16, cached);
  RunTogether(requests);
  const std::vector<Answer> again = RunTogether(requests);
  EXPECT_GT(engine_->metrics().prefix_hits_tokens, 0u);
  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE("from the prefix cache, request " + std::to_string(i));
    ExpectEqual(again[i], alone[i]);
  }
  const MetricsSnapshot s = engine_->metrics();
  EXPECT_EQ(s.requests_running + s.requests_waiting + s.blocks_used, 0);
}

INSTANTIATE_TEST_SUITE_P(Formats, BundledModel, ::testing::Values("bf16", "int4"));

}  // namespace
}  // namespace palu
