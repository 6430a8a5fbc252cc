// One behaviour of the engine at a time.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/engine/engine_fixture.h"

namespace palu {
namespace {

using testing::Answer;
using testing::EngineTest;
using testing::ReadAll;
using testing::ReferenceOutput;
using testing::RunAlone;

std::vector<int32_t> Range(int count) {
  std::vector<int32_t> ids(count);
  for (int i = 0; i < count; ++i) ids[i] = (i * 5 + 3) % 50;
  return ids;
}

// A prompt after which the greedy answer reaches the id as its token number `at`, and not before.
Request PromptReaching(const EngineLimits& limits, Request request, int32_t id, int at) {
  for (int32_t first = 0; first < 100000; ++first) {
    request.prompt = {first % 50, first / 50 % 50, first / 2500};
    Request endless = request;
    endless.sampling.ignore_eos = true;
    endless.sampling.stop_token_ids.clear();
    endless.sampling.min_tokens = 0;
    endless.sampling.max_tokens = at + 1;
    const auto tokens = RunAlone(limits, endless, 0).tokens;
    if (std::find(tokens.begin(), tokens.end(), id) == tokens.begin() + at) return request;
  }
  ADD_FAILURE();
  return request;
}

TEST_F(EngineTest, LengthEndsAnAnswer) {
  Start();
  const Request request = Simple(Range(11), 9);
  const Answer answer = Answered(request);
  EXPECT_TRUE(answer.status.ok());
  EXPECT_EQ(answer.choices[0].tokens, RunAlone(limits, request, 0).tokens);
  EXPECT_EQ(answer.choices[0].tokens.size(), 9u);
  EXPECT_EQ(answer.choices[0].finish, FinishReason::kLength);
  EXPECT_FALSE(answer.choices[0].stopped_by_token);
  EXPECT_EQ(answer.prompt_tokens, 11);
  EXPECT_LE(answer.timing.arrival, answer.timing.scheduled);
  EXPECT_LE(answer.timing.scheduled, answer.timing.first_token);
  EXPECT_LE(answer.timing.first_token, answer.timing.finished);
  ExpectIdle();
  const MetricsSnapshot s = engine->metrics();
  EXPECT_EQ(s.finished_length, 1u);
  EXPECT_EQ(s.prompt_tokens, 11u);
  EXPECT_EQ(s.generation_tokens, 9u);
  EXPECT_EQ(s.time_to_first_token.count, 1u);
  EXPECT_EQ(s.inter_token_latency.count, 8u);
  EXPECT_EQ(s.e2e_latency.count, 1u);
  EXPECT_EQ(s.decode_time.count, 1u);
  EXPECT_EQ(s.request_generation_tokens.sum, 9);
  EXPECT_LE(s.request_max_generation_tokens.sum, s.request_generation_tokens.sum);
  EXPECT_EQ(s.request_max_generation_tokens.count, s.request_generation_tokens.count);
  // 8 + 3 prompt tokens, then one for each but the last token.
  EXPECT_EQ(s.iteration_tokens.count, 10u);
  EXPECT_EQ(s.iteration_tokens.sum, 11 + 8);
}

TEST_F(EngineTest, EosIsCountedAndMarked) {
  Start();
  Request request = Simple({}, 30);
  request.sampling.ignore_eos = false;
  request = PromptReaching(limits, request, 7, 3);
  const Answer answer = Answered(request);
  EXPECT_EQ(answer.choices[0].tokens.size(), 4u);
  EXPECT_EQ(answer.choices[0].tokens.back(), 7);
  EXPECT_EQ(answer.choices[0].finish, FinishReason::kStop);
  EXPECT_TRUE(answer.choices[0].stopped_by_token);
  ExpectIdle();
  EXPECT_EQ(engine->metrics().finished_stop, 1u);
}

TEST_F(EngineTest, StopIdsWorkBesideIgnoredEos) {
  Start();
  Request request = Simple({}, 30);
  request.sampling.stop_token_ids = {21};
  request = PromptReaching(limits, request, 21, 2);
  const Answer answer = Answered(request);
  EXPECT_EQ(answer.choices[0].tokens.size(), 3u);
  EXPECT_TRUE(answer.choices[0].stopped_by_token);
}

TEST_F(EngineTest, MinTokensHoldsStopsBack) {
  Start();
  Request request = Simple({}, 12);
  request.sampling.ignore_eos = false;
  request.sampling.min_tokens = 6;
  request = PromptReaching(limits, request, 7, 2);
  const Answer answer = Answered(request);
  EXPECT_GE(answer.choices[0].tokens.size(), 6u);
  EXPECT_EQ(answer.choices[0].tokens, RunAlone(limits, request, 0).tokens);
}

TEST_F(EngineTest, PromptLogprobsOverChunks) {
  Start();
  Request request = Simple(Range(29), 2);
  request.sampling.num_prompt_logprobs = 2;
  request.sampling.num_logprobs = 3;
  for (int repeat = 0; repeat < 2; ++repeat) {
    const Answer answer = Answered(request);
    ASSERT_EQ(answer.prompt_logprobs.size(), 28u);
    for (int i = 0; i < 28; ++i) {
      const OutputToken& scored = answer.prompt_logprobs[i];
      EXPECT_EQ(scored.token, request.prompt[i + 1]);
      EXPECT_EQ(scored.logprob, testing::FakeLogprob(testing::HistoryHash(request.prompt, i + 1),
                                                     request.prompt[i + 1]));
      EXPECT_EQ(scored.top.size(), 2u);
    }
    ASSERT_EQ(answer.choices[0].details.size(), 2u);
    EXPECT_EQ(answer.choices[0].details[0].top.size(), 3u);
    EXPECT_EQ(answer.cached_tokens, 0) << "scored prompts are computed in full";
  }
}

TEST_F(EngineTest, ZeroMaxTokensOnlyScores) {
  Start();
  Request request = Simple(Range(64), 0);
  request.sampling.num_prompt_logprobs = 0;
  request.n = 2;
  const Answer answer = Answered(request);
  EXPECT_EQ(answer.prompt_logprobs.size(), 63u);
  for (const auto& choice : answer.choices) {
    EXPECT_TRUE(choice.tokens.empty());
    EXPECT_EQ(choice.finish, FinishReason::kLength);
  }
  ExpectIdle();
}

TEST_F(EngineTest, PoolingTakesEveryTokenOrTheLast) {
  Start();
  Request request = Simple(Range(29), 0);
  for (int repeat = 0; repeat < 2; ++repeat) {
    request.pooling = Pooling::kMean;
    float sum = 0;
    for (const int32_t id : request.prompt) sum += static_cast<float>(id);
    EXPECT_EQ(Answered(request).embedding, (std::vector<float>{sum / 29, 14}));
    request.pooling = Pooling::kLast;
    const Answer last = Answered(request);
    EXPECT_EQ(last.embedding, (std::vector<float>{static_cast<float>(request.prompt[28]), 28}));
    EXPECT_EQ(last.cached_tokens, 28) << "the last token alone needs to be computed";
  }
  ExpectIdle();
}

TEST_F(EngineTest, SaltsKeepPrefixesApart) {
  Start();
  Request request = Simple(Range(29), 1);
  const auto cached = [&](uint64_t salt) {
    request.cache_salt = salt;
    return Answered(request).cached_tokens;
  };
  EXPECT_EQ(cached(7), 0);
  EXPECT_EQ(cached(7), 28);
  EXPECT_EQ(cached(0), 0);
  EXPECT_EQ(cached(8), 0);
  EXPECT_EQ(cached(0), 28);
}

TEST_F(EngineTest, GreedyChoicesAreEqualAndShareThePrompt) {
  options.prefix_caching = false;
  Start();
  Request request = Simple(Range(22), 6);
  request.n = 3;
  const Answer answer = Answered(request);
  for (const auto& choice : answer.choices) {
    EXPECT_EQ(choice.tokens, RunAlone(limits, request, 0).tokens);
  }
  ExpectIdle();
  const MetricsSnapshot s = engine->metrics();
  EXPECT_EQ(s.prompt_tokens, 22u);
  EXPECT_EQ(s.generation_tokens, 18u);
  EXPECT_EQ(s.iteration_tokens.sum, 22 + 3 * 5) << "the prompt was computed once";
}

TEST_F(EngineTest, SampledChoicesDifferAndRepeatWithTheSeed) {
  Start();
  Request request = Simple(Range(9), 8);
  request.sampling.temperature = 1;
  request.sampling.seed = 5;
  request.n = 3;
  const Answer first = Answered(request);
  EXPECT_NE(first.choices[0].tokens, first.choices[1].tokens);
  EXPECT_NE(first.choices[1].tokens, first.choices[2].tokens);
  const Answer second = Answered(request);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(first.choices[i].tokens, second.choices[i].tokens);
  request.n = 1;
  EXPECT_EQ(Answered(request).choices[0].tokens, first.choices[0].tokens);
  request.sampling.seed.reset();
  EXPECT_NE(Answered(request).choices[0].tokens, Answered(request).choices[0].tokens);
}

TEST_F(EngineTest, MoreChoicesThanSequencesRunInWaves) {
  Start();
  Request request = Simple(Range(10), 5);
  request.sampling.num_prompt_logprobs = 0;
  request.n = 11;
  const Answer answer = Answered(request);
  for (const auto& choice : answer.choices) {
    EXPECT_EQ(choice.tokens, RunAlone(limits, request, 0).tokens);
  }
  EXPECT_EQ(answer.prompt_logprobs.size(), 9u);
  EXPECT_LE(runner->max_step_sequences(), options.max_sequences);
  ExpectIdle();
}

TEST_F(EngineTest, ContextAndPoolClampAnAnswer) {
  Start();
  EXPECT_EQ(Answered(Simple(Range(60), 100)).choices[0].tokens.size(), 4u);
  limits.num_blocks = 3;
  Start();
  const Answer answer = Answered(Simple(Range(9), 100));
  EXPECT_EQ(answer.choices[0].tokens.size(), 4u) << "12 slots; the last token needs none";
  EXPECT_EQ(answer.choices[0].finish, FinishReason::kLength);
  ExpectIdle();
}

TEST_F(EngineTest, PreemptionDoesNotChangeAnswers) {
  options.prefix_caching = false;
  limits.num_blocks = 9;
  Start();
  std::vector<Request> requests;
  std::vector<RequestHandle> handles;
  for (int i = 0; i < 4; ++i) {
    requests.push_back(Simple(Range(6 + i), 20));
    handles.push_back(MustSubmit(requests.back()));
  }
  for (int i = 0; i < 4; ++i) {
    const Answer answer = ReadAll(handles[i]);
    EXPECT_EQ(answer.choices[0].tokens, RunAlone(limits, requests[i], 0).tokens);
  }
  ExpectIdle();
  EXPECT_GT(engine->metrics().preemptions, 0u);
}

TEST_F(EngineTest, SecondTurnFindsItsPrefix) {
  Start();
  const Request first = Simple(Range(21), 10);
  const Answer answer = Answered(first);
  EXPECT_EQ(answer.cached_tokens, 0);
  Request second = first;
  const auto& reply = answer.choices[0].tokens;
  second.prompt.insert(second.prompt.end(), reply.begin(), reply.end());
  second.prompt.push_back(1);
  const Answer next = Answered(second);
  EXPECT_EQ(next.cached_tokens, 28) << "30 computed tokens are 7 full blocks";
  EXPECT_EQ(next.choices[0].tokens, RunAlone(limits, second, 0).tokens);
  ExpectIdle();
  const MetricsSnapshot s = engine->metrics();
  EXPECT_EQ(s.prefix_queries_tokens, 21u + 32u);
  EXPECT_EQ(s.prefix_hits_tokens, 28u);
  EXPECT_GT(s.blocks_cached, 0);
}

TEST_F(EngineTest, LowerPriorityValueIsServedFirst) {
  options.max_sequences = 1;
  Start();
  runner->HoldFrom(1);
  RequestHandle running = MustSubmit(Simple(Range(4), 30));
  EXPECT_TRUE(running.stream().Wait(std::chrono::seconds(20)));
  Request late = Simple(Range(5), 1);
  late.priority = 5;
  Request early = Simple(Range(6), 1);
  early.priority = -5;
  RequestHandle second = MustSubmit(late);
  RequestHandle first = MustSubmit(early);
  runner->Release();
  ReadAll(running);
  const Answer a = ReadAll(first), b = ReadAll(second);
  EXPECT_LT(a.timing.finished, b.timing.scheduled);
}

}  // namespace
}  // namespace palu
