#include "engine/request_check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "tests/engine/engine_fixture.h"

namespace palu {
namespace {

EngineLimits Limits() {
  EngineLimits limits;
  limits.max_context_tokens = 100;
  limits.block_tokens = 4;
  limits.num_blocks = 10;
  limits.vocab_size = 50;
  return limits;
}

Request Valid() {
  Request request;
  request.prompt = {1, 2, 3};
  return request;
}

TEST(RequestCheck, EveryFieldIsNamed) {
  const float nan = std::nanf("");
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<std::pair<std::string, std::function<void(Request&)>>> faults = {
      {"n", [](Request& r) { r.n = 0; }},
      {"n", [](Request& r) { r.n = 1000000; }},
      {"prompt", [](Request& r) { r.prompt.clear(); }},
      {"prompt", [](Request& r) { r.prompt[1] = 50; }},
      {"prompt", [](Request& r) { r.prompt[1] = -1; }},
      {"max_tokens", [](Request& r) { r.sampling.max_tokens = -1; }},
      {"min_tokens", [](Request& r) { r.sampling.min_tokens = -1; }},
      {"min_tokens", [](Request& r) { r.sampling.min_tokens = 17; }},
      {"temperature", [=](Request& r) { r.sampling.temperature = -0.1f; }},
      {"temperature", [=](Request& r) { r.sampling.temperature = nan; }},
      {"temperature", [=](Request& r) { r.sampling.temperature = inf; }},
      {"top_p", [=](Request& r) { r.sampling.top_p = 0; }},
      {"top_p", [=](Request& r) { r.sampling.top_p = 1.01f; }},
      {"top_p", [=](Request& r) { r.sampling.top_p = nan; }},
      {"min_p", [=](Request& r) { r.sampling.min_p = -0.1f; }},
      {"min_p", [=](Request& r) { r.sampling.min_p = nan; }},
      {"repetition_penalty", [=](Request& r) { r.sampling.repetition_penalty = 0; }},
      {"repetition_penalty", [=](Request& r) { r.sampling.repetition_penalty = inf; }},
      {"presence_penalty", [=](Request& r) { r.sampling.presence_penalty = nan; }},
      {"frequency_penalty", [=](Request& r) { r.sampling.frequency_penalty = inf; }},
      {"logit_bias",
       [](Request& r) {
         r.sampling.logit_bias = {{50, 1.0f}};
       }},
      {"logit_bias",
       [=](Request& r) {
         r.sampling.logit_bias = {{1, nan}};
       }},
      {"stop_token_ids", [](Request& r) { r.sampling.stop_token_ids = {-1}; }},
      {"allowed_token_ids", [](Request& r) { r.sampling.allowed_token_ids = {99}; }},
      {"logprobs", [](Request& r) { r.sampling.num_logprobs = 21; }},
      {"prompt_logprobs", [](Request& r) { r.sampling.num_prompt_logprobs = -2; }},
  };
  for (const auto& [param, spoil] : faults) {
    Request request = Valid();
    spoil(request);
    const RequestCheck check = CheckRequest(Limits(), &request);
    EXPECT_EQ(check.fault, RequestFault::kInvalid) << param;
    EXPECT_EQ(check.status.code, StatusCode::kInvalidArgument);
    EXPECT_EQ(check.status.param, param) << check.status.message;
    EXPECT_NE(check.status.message.find(param), std::string::npos) << check.status.message;
  }
  Request request = Valid();
  EXPECT_EQ(CheckRequest(Limits(), &request).fault, RequestFault::kNone);
}

TEST(RequestCheck, TooLongForTheContext) {
  EngineLimits limits = Limits();
  limits.num_blocks = 1000;
  Request request = Valid();
  request.prompt.assign(100, 1);
  RequestCheck check = CheckRequest(limits, &request);
  EXPECT_EQ(check.fault, RequestFault::kTooLong);
  EXPECT_NE(check.status.message.find("100"), std::string::npos) << check.status.message;
  request.sampling.max_tokens = 0;
  EXPECT_EQ(CheckRequest(limits, &request).fault, RequestFault::kNone);
  request.prompt.assign(101, 1);
  EXPECT_EQ(CheckRequest(limits, &request).fault, RequestFault::kTooLong);
}

TEST(RequestCheck, TooLongForThePoolSaysTheArithmetic) {
  Request request = Valid();
  request.prompt.assign(40, 1);
  const RequestCheck check = CheckRequest(Limits(), &request);
  EXPECT_EQ(check.fault, RequestFault::kTooLong);
  EXPECT_EQ(check.status.message,
            "the prompt has 40 tokens, which need 11 cache blocks of 4 tokens, but the whole cache "
            "has 10 blocks (40 tokens)");
  request.prompt.assign(39, 1);
  EXPECT_EQ(CheckRequest(Limits(), &request).fault, RequestFault::kNone);
}

TEST(RequestCheck, MaxTokensIsClamped) {
  Request request = Valid();
  request.sampling.max_tokens = 1000;
  request.sampling.min_tokens = 900;
  ASSERT_EQ(CheckRequest(Limits(), &request).fault, RequestFault::kNone);
  EXPECT_EQ(request.sampling.max_tokens, 38) << "40 slots less 3, and the last needs none";
  EXPECT_EQ(request.sampling.min_tokens, 38);
  EngineLimits limits = Limits();
  limits.num_blocks = 1000;
  request.sampling.max_tokens = std::numeric_limits<int>::max();
  ASSERT_EQ(CheckRequest(limits, &request).fault, RequestFault::kNone);
  EXPECT_EQ(request.sampling.max_tokens, 97);
}

using SubmitTest = testing::EngineTest;

TEST_F(SubmitTest, RefusalsAreCounted) {
  Start();
  Request invalid = Simple({1}, 1);
  invalid.n = 0;
  EXPECT_FALSE(engine->Submit(invalid));
  EXPECT_FALSE(engine->Submit(Simple(std::vector<int32_t>(200, 1), 1)));
  EXPECT_EQ(engine->metrics().rejected_invalid, 1u);
  EXPECT_EQ(engine->metrics().rejected_too_long, 1u);
  ExpectIdle();
}

}  // namespace
}  // namespace palu
