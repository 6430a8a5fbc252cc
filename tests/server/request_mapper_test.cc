#include "server/request_mapper.h"

#include <gtest/gtest.h>

#include "server/error_table.h"
#include "server/http_target.h"
#include "server/request_id.h"
#include "tests/server/byte_tokenizer.h"

namespace palu {
namespace {

using testing::ByteTokenizer;

class RequestMapperTest : public ::testing::Test {
 protected:
  RequestMapperTest() {
    limits_.max_context_tokens = 100;
    limits_.vocab_size = 257;
  }
  Result<std::vector<Request>> Map() { return MapGeneration(spec_, tokenizer_, limits_); }

  ByteTokenizer tokenizer_;
  EngineLimits limits_;
  GenerationSpec spec_;
};

TEST_F(RequestMapperTest, TextIsTokenizedAndIdsAreTaken) {
  spec_.prompts = {std::string("ab"), std::vector<int32_t>{7, 8, 9}};
  spec_.n = 3;
  spec_.priority = -1;
  const auto requests = Map();
  ASSERT_TRUE(requests);
  EXPECT_EQ((*requests)[0].prompt, (std::vector<int32_t>{'a', 'b', ByteTokenizer::kEos}));
  EXPECT_EQ((*requests)[1].prompt, (std::vector<int32_t>{7, 8, 9}));
  EXPECT_EQ((*requests)[1].n, 3);
  EXPECT_EQ((*requests)[1].priority, -1);
  spec_.add_special_tokens = false;
  EXPECT_EQ((*Map())[0].prompt, (std::vector<int32_t>{'a', 'b'}));
}

TEST_F(RequestMapperTest, MaxTokensAreSettled) {
  spec_.prompts = {std::vector<int32_t>(90, 1)};
  EXPECT_EQ((*Map())[0].sampling.max_tokens, 10) << "to the end of the context";
  spec_.default_max_tokens = 16;
  EXPECT_EQ((*Map())[0].sampling.max_tokens, 10);
  spec_.default_max_tokens = 4;
  EXPECT_EQ((*Map())[0].sampling.max_tokens, 4);
  spec_.max_tokens = 10;
  EXPECT_EQ((*Map())[0].sampling.max_tokens, 10);
  spec_.max_tokens = 0;
  EXPECT_EQ((*Map())[0].sampling.max_tokens, 0);
}

TEST_F(RequestMapperTest, AskingForTooMuchSaysTheNumbers) {
  spec_.prompts = {std::vector<int32_t>(90, 1)};
  spec_.max_tokens = 11;
  const auto requests = Map();
  ASSERT_FALSE(requests);
  EXPECT_EQ(requests.error().param, "max_tokens");
  for (const char* number : {"100", "90", "11", "101"}) {
    EXPECT_NE(requests.error().message.find(number), std::string::npos) << number;
  }
}

TEST_F(RequestMapperTest, TruncationKeepsTheEnd) {
  spec_.prompts = {std::vector<int32_t>{1, 2, 3, 4}};
  spec_.truncate_prompt_tokens = 2;
  EXPECT_EQ((*Map())[0].prompt, (std::vector<int32_t>{3, 4}));
  spec_.prompts = {std::vector<int32_t>(500, 1)};
  spec_.truncate_prompt_tokens = -1;
  EXPECT_EQ((*Map())[0].prompt.size(), 99u) << "one token is left to generate";
}

TEST(ErrorTable, StatusesMapOneToOne) {
  const std::pair<StatusCode, std::pair<int, int>> expected[] = {
      {StatusCode::kInvalidArgument, {400, 3}},   {StatusCode::kNotFound, {404, 5}},
      {StatusCode::kResourceExhausted, {429, 8}}, {StatusCode::kUnavailable, {503, 14}},
      {StatusCode::kDeadlineExceeded, {504, 4}},  {StatusCode::kCancelled, {499, 1}},
      {StatusCode::kInternal, {500, 13}},         {StatusCode::kOk, {200, 0}}};
  for (const auto& [code, numbers] : expected) {
    EXPECT_EQ(MapStatusCode(code).http_status, numbers.first);
    EXPECT_EQ(MapStatusCode(code).grpc_code, numbers.second);
    EXPECT_EQ(HttpErrorType(numbers.first), MapStatusCode(code).type);
  }
  EXPECT_GT(RetryAfterSeconds(429), 0);
  EXPECT_GT(RetryAfterSeconds(503), 0);
  EXPECT_EQ(RetryAfterSeconds(400), 0);
}

TEST(HttpTarget, Paths) {
  EXPECT_EQ(PathOfTarget("/a/b?x=1#f"), "/a/b");
  EXPECT_EQ(PathOfTarget("/v1/models/a%2Fb"), "/v1/models/a/b");
  EXPECT_EQ(PathOfTarget("http://host:80/a?b"), "/a");
  EXPECT_EQ(PathOfTarget("https://host"), "/");
  EXPECT_EQ(PathOfTarget("/x%"), "/x%");
  EXPECT_EQ(PathOfTarget("/x%4"), "/x%4");
  EXPECT_EQ(PathOfTarget("/x%41"), "/xA");
  EXPECT_EQ(PathOfTarget("/?u=http://a"), "/");
  EXPECT_EQ(PathOfTarget("*"), "*");
  EXPECT_EQ(PathOfTarget(""), "");
}

TEST(RequestId, IsSafeAndNew) {
  EXPECT_EQ(SanitizeRequestId("ab-1_2.:X"), "ab-1_2.:X");
  EXPECT_EQ(SanitizeRequestId("a\r\nb: c<>"), "ab:c");
  EXPECT_EQ(SanitizeRequestId(std::string(1000, 'a')).size(), 128u);
  EXPECT_EQ(NewRequestId().size(), 32u);
  EXPECT_NE(NewRequestId(), NewRequestId());
}

}  // namespace
}  // namespace palu
