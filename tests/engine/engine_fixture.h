// An engine over the fake runner, and a reader that takes a request to its end.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "tests/engine/fake_runner.h"

namespace palu::testing {

struct Answer {
  struct Choice {
    std::vector<int32_t> tokens;
    std::vector<OutputToken> details;
    std::optional<FinishReason> finish;
    bool stopped_by_token = false;
  };
  std::vector<Choice> choices;
  std::vector<OutputToken> prompt_logprobs;
  std::vector<float> embedding;
  bool finished = false;
  Status status;
  int prompt_tokens = 0, cached_tokens = 0;
  RequestTiming timing;
};

inline void Append(OutputBatch batch, Answer* answer) {
  EXPECT_FALSE(answer->finished) << "something came after the end";
  for (OutputDelta& delta : batch.deltas) {
    auto& choice = answer->choices.at(delta.choice);
    EXPECT_FALSE(choice.finish) << "something came after a choice's end";
    for (OutputToken& token : delta.tokens) {
      choice.tokens.push_back(token.token);
      choice.details.push_back(std::move(token));
    }
    choice.finish = delta.finish;
    choice.stopped_by_token = delta.stopped_by_token;
  }
  if (!batch.prompt_logprobs.empty()) {
    EXPECT_TRUE(answer->prompt_logprobs.empty());
    answer->prompt_logprobs = std::move(batch.prompt_logprobs);
  }
  if (!batch.embedding.empty()) answer->embedding = std::move(batch.embedding);
  answer->finished = batch.finished;
  answer->status = batch.status;
  answer->prompt_tokens = batch.prompt_tokens;
  answer->cached_tokens = batch.cached_tokens;
  answer->timing = batch.timing;
}

// Reads to the end; fails after a minute of silence.
inline Answer ReadAll(RequestHandle& handle, int n = 1) {
  Answer answer;
  answer.choices.resize(n);
  while (!answer.finished) {
    if (!handle.stream().Wait(std::chrono::minutes(1))) {
      ADD_FAILURE() << "no output";
      return answer;
    }
    Append(handle.stream().Drain(), &answer);
  }
  for (const auto& choice : answer.choices) EXPECT_TRUE(choice.finish.has_value());
  return answer;
}

class EngineTest : public ::testing::Test {
 protected:
  EngineTest() {
    options.max_sequences = 4;
    options.step_tokens = 8;
    options.max_queue_requests = 16;
    limits.max_context_tokens = 64;
    limits.block_tokens = 4;
    limits.num_blocks = 32;
    limits.vocab_size = 50;
    limits.eos_token_ids = {7};
  }

  void Start() {
    engine.reset();
    runner = std::make_unique<FakeRunner>(limits, options);
    StartWith(runner.get());
  }
  void StartWith(StepRunner* other) { engine = std::make_unique<Engine>(options, limits, other); }

  // Greedy, without end-of-text.
  static Request Simple(std::vector<int32_t> prompt, int max_tokens) {
    Request request;
    request.prompt = std::move(prompt);
    request.sampling.max_tokens = max_tokens;
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    return request;
  }

  RequestHandle MustSubmit(Request request) {
    auto handle = engine->Submit(std::move(request));
    if (!handle) {
      ADD_FAILURE() << handle.error().message;
      std::abort();
    }
    return std::move(*handle);
  }

  Answer Answered(const Request& request) {
    RequestHandle handle = MustSubmit(request);
    return ReadAll(handle, request.n);
  }

  // After everything was read to its end.
  void ExpectIdle() {
    for (int i = 0; i < 5000 && !engine->idle(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_TRUE(engine->idle());
    const MetricsSnapshot s = engine->metrics();
    EXPECT_EQ(s.requests_running, 0);
    EXPECT_EQ(s.requests_waiting, 0);
    EXPECT_EQ(s.blocks_used, 0);
    if (!options.prefix_caching) {
      EXPECT_EQ(s.blocks_cached, 0);
    }
    if (runner) {
      EXPECT_EQ(runner->violations(), std::vector<std::string>());
    }
  }

  EngineOptions options;
  EngineLimits limits;
  std::unique_ptr<FakeRunner> runner;
  std::unique_ptr<Engine> engine;  // goes before the runner
};

}  // namespace palu::testing
