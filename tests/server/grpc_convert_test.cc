#include "server/grpc_convert.h"

#include <gtest/gtest.h>

#include "tests/server/byte_tokenizer.h"

namespace palu {
namespace {

using testing::ByteTokenizer;
using testing::Tokens;

TEST(GrpcConvert, DefaultsAreThoseOfHttp) {
  v1::GenerateRequest request;
  request.set_text("a");
  const auto spec = ToGenerationSpec(request);
  ASSERT_TRUE(spec);
  EXPECT_EQ(spec->default_max_tokens, 16);
  EXPECT_EQ(spec->sampling.temperature, 1.0f);
  EXPECT_EQ(spec->sampling.top_p, 1.0f);
  EXPECT_EQ(spec->sampling.repetition_penalty, 1.0f);
  EXPECT_EQ(spec->sampling.num_logprobs, -1);
  EXPECT_EQ(spec->n, 1);
  EXPECT_TRUE(spec->add_special_tokens);
  EXPECT_FALSE(spec->sampling.seed);
}

TEST(GrpcConvert, EveryParameterArrives) {
  v1::GenerateRequest request;
  request.set_text("a");
  request.mutable_sampling()->add_bad_words("no");
  request.set_skip_special_tokens(false);
  request.set_truncate_prompt_tokens(-1);
  request.set_cache_salt("salt");
  request.set_user("me");
  const auto spec = ToGenerationSpec(request);
  ASSERT_TRUE(spec);
  EXPECT_EQ(spec->bad_words, std::vector<std::string>{"no"});
  EXPECT_FALSE(spec->skip_special_tokens);
  EXPECT_EQ(spec->truncate_prompt_tokens, -1);
  EXPECT_EQ(spec->cache_salt, "salt");
  EXPECT_EQ(spec->tenant, "me");
  request.set_truncate_prompt_tokens(0);
  EXPECT_EQ(ToGenerationSpec(request).error().param, "truncate_prompt_tokens");
}

TEST(GrpcConvert, ZeroThatWasSetIsNotTheDefault) {
  v1::GenerateRequest request;
  request.mutable_tokens()->add_ids(5);
  request.mutable_sampling()->set_max_tokens(0);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_seed(0);
  request.mutable_sampling()->set_logprobs(0);
  request.set_add_special_tokens(false);
  const auto spec = ToGenerationSpec(request);
  ASSERT_TRUE(spec);
  EXPECT_EQ(spec->max_tokens, 0);
  EXPECT_EQ(spec->sampling.temperature, 0.0f);
  EXPECT_EQ(spec->sampling.seed, 0u);
  EXPECT_EQ(spec->sampling.num_logprobs, 0);
  EXPECT_FALSE(spec->add_special_tokens);
}

TEST(GrpcConvert, TheUserIsTheTenant) {
  v1::GenerateRequest request;
  request.set_text("a");
  EXPECT_EQ(ToGenerationSpec(request)->tenant, "");
  request.set_user("u");
  EXPECT_EQ(ToGenerationSpec(request)->tenant, "u");
  v1::EmbedRequest embed;
  embed.add_inputs()->set_text("a");
  embed.set_user("v");
  EXPECT_EQ(ToEmbeddingSpec(embed, Pooling::kMean)->tenant, "v");
}

TEST(GrpcConvert, OutOfRangeIsRefused) {
  v1::GenerateRequest request;
  EXPECT_EQ(ToGenerationSpec(request).error().param, "prompt");
  request.set_text("a");
  request.mutable_sampling()->set_presence_penalty(2.5f);
  EXPECT_EQ(ToGenerationSpec(request).error().param, "presence_penalty");
  request.mutable_sampling()->set_presence_penalty(0);
  (*request.mutable_sampling()->mutable_logit_bias())[3] = -101;
  EXPECT_EQ(ToGenerationSpec(request).error().param, "logit_bias");
}

TEST(GrpcConvert, StreamAndUnaryCarryTheSame) {
  const ByteTokenizer tokenizer;
  PumpOutput first;
  first.deltas.push_back({0, "ab", Tokens("ab"), std::nullopt, std::nullopt, ""});
  first.prompt_logprobs.push_back({0, Tokens("p")});
  PumpOutput last;
  last.deltas.push_back({0, "c", Tokens("c"), FinishReason::kStop, std::nullopt, ""});
  last.finished = true;
  last.usage = {4, 3, 2};
  const GrpcDetail detail{1, 0};
  v1::GenerateResponse response;
  response.add_choices();
  std::string text;
  int usages = 0;
  for (const PumpOutput* output : {&first, &last}) {
    AddToResponse(*output, detail, tokenizer, &response);
    for (const v1::GenerateChunk& chunk : ToChunks(*output, "r", detail, tokenizer)) {
      EXPECT_EQ(chunk.request_id(), "r");
      text += chunk.text();
      usages += chunk.has_usage();
    }
  }
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(usages, 1);
  EXPECT_EQ(response.choices(0).text(), "abc");
  EXPECT_EQ(response.choices(0).token_ids_size(), 3);
  EXPECT_EQ(response.choices(0).logprobs(0).top_size(), 1);
  EXPECT_EQ(response.choices(0).finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(response.prompt_logprobs_size(), 1);
  EXPECT_EQ(response.usage().cached_tokens(), 2);
}

TEST(GrpcConvert, StatusCodesAreGrpcs) {
  EXPECT_EQ(ToGrpcStatus(InvalidArgument("x")).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ToGrpcStatus({StatusCode::kDeadlineExceeded, "", ""}).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(ToGrpcStatus({}).ok());
}

}  // namespace
}  // namespace palu
