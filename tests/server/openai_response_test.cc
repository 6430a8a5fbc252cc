#include "server/openai_response.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "server/openai_logprobs.h"
#include "tests/server/byte_tokenizer.h"

namespace palu {
namespace {

using nlohmann::json;
using testing::ByteTokenizer;
using testing::Tokens;

const ByteTokenizer& Bytes() {
  static const ByteTokenizer tokenizer;
  return tokenizer;
}

ResponseContext Context(const OpenAiOptions& options, int n = 1, int choices = 1) {
  ResponseContext context;
  context.id = "cmpl-1";
  context.created = 5;
  context.model = "m";
  context.options = options;
  context.n = n;
  context.num_choices = choices;
  context.tokenizer = &Bytes();
  return context;
}

PumpOutput Output(int index, const std::string& text, bool last) {
  PumpOutput output;
  ChoiceDelta delta;
  delta.index = index;
  delta.text = text;
  delta.tokens = Tokens(text);
  if (last) delta.finish = FinishReason::kStop;
  output.deltas.push_back(delta);
  output.usage = {3, static_cast<int>(text.size()), 1};
  output.finished = last;
  return output;
}

std::vector<json> Events(const std::string& text) {
  std::vector<json> events;
  size_t start = 0;
  while (start < text.size()) {
    const size_t end = text.find("\n\n", start);
    EXPECT_EQ(text.substr(start, 6), "data: ");
    const std::string data = text.substr(start + 6, end - start - 6);
    events.push_back(data == "[DONE]" ? json("[DONE]") : json::parse(data));
    start = end + 2;
  }
  return events;
}

TEST(UnaryResponse, Completion) {
  UnaryResponse response(Context({}, 2, 2));
  response.Add(Output(1, "xy", false));
  response.Add(Output(0, "ab", false));
  PumpOutput last = Output(0, "c", true);
  last.deltas[0].stop_string = "END";
  last.usage = {3, 9, 1};
  response.Add(last);
  const json body = json::parse(response.Body());
  EXPECT_EQ(body["id"], "cmpl-1");
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["choices"][0]["text"], "abc");
  EXPECT_EQ(body["choices"][0]["stop_reason"], "END");
  EXPECT_EQ(body["choices"][1]["text"], "xy");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(body["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(body["usage"], json::parse(R"({"prompt_tokens":3,"completion_tokens":9,
      "total_tokens":12,"prompt_tokens_details":{"cached_tokens":1}})"));
}

TEST(UnaryResponse, ChatWithLogprobs) {
  OpenAiOptions options;
  options.chat = options.logprobs = true;
  options.top_logprobs = 1;
  UnaryResponse response(Context(options));
  response.Add(Output(0, "h\xc3\xa9", true));
  const json choice = json::parse(response.Body())["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["message"]["content"], "hé");
  const json& content = choice["logprobs"]["content"];
  ASSERT_EQ(content.size(), 3u);
  EXPECT_EQ(content[0]["token"], "h");
  EXPECT_EQ(content[1]["bytes"], json::array({0xc3}));
  EXPECT_EQ(content[1]["token"], "\xef\xbf\xbd");
  EXPECT_EQ(content[0]["top_logprobs"].size(), 1u);
}

TEST(UnaryResponse, EchoPutsThePromptFirst) {
  OpenAiOptions options;
  options.echo = options.logprobs = true;
  options.top_logprobs = 1;
  ResponseContext context = Context(options);
  context.prompt_texts = {"é!"};
  context.prompt_ids = {{0xc3, 0xa9, '!'}};
  UnaryResponse response(context);
  PumpOutput output = Output(0, "ab", true);
  output.prompt_logprobs.push_back({0, Tokens("\xa9!")});
  response.Add(output);
  const json choice = json::parse(response.Body())["choices"][0];
  EXPECT_EQ(choice["text"], "é!ab");
  const json& logprobs = choice["logprobs"];
  EXPECT_EQ(logprobs["tokens"], json::parse(R"(["bytes:\\xc3","bytes:\\xa9","!","a","b"])"));
  EXPECT_EQ(logprobs["text_offset"], json::array({0, 1, 1, 2, 3})) << "in code points";
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  EXPECT_EQ(logprobs["token_logprobs"][4], -0.5);
}

TEST(PromptLogprobs, FirstIsNullAndTheOwnTokenIsAlwaysThere) {
  std::vector<OutputToken> tokens = Tokens("a");
  tokens[0].rank = 7;
  tokens[0].top = {{'x', -0.1f}, {'y', -0.2f}, {'z', -0.3f}};
  const json list = json::parse(Dump(PromptLogprobsJson(tokens, 2, Bytes())));
  ASSERT_EQ(list.size(), 2u);
  EXPECT_TRUE(list[0].is_null());
  EXPECT_EQ(list[1].size(), 3u);
  EXPECT_EQ(list[1]["97"]["rank"], 7);
  EXPECT_EQ(list[1]["97"]["decoded_token"], "a");
  EXPECT_EQ(list[1]["121"]["rank"], 2);
}

TEST(Logprobs, MinusInfinityBecomesANumber) {
  std::vector<OutputToken> tokens = Tokens("a");
  tokens[0].logprob = -std::numeric_limits<float>::infinity();
  const json content = json::parse(Dump(ChatLogprobsJson(tokens, 0, Bytes())));
  EXPECT_EQ(content["content"][0]["logprob"], -9999.0);
}

TEST(StreamResponse, ChatStartsWithTheRoleAndEndsWithUsage) {
  OpenAiOptions options;
  options.chat = options.stream = options.include_usage = true;
  StreamResponse response(Context(options));
  const auto first = Events(response.Events(Output(0, "a", false)));
  ASSERT_EQ(first.size(), 2u);
  EXPECT_EQ(first[0]["choices"][0]["delta"], json::parse(R"({"role":"assistant","content":""})"));
  EXPECT_EQ(first[1]["choices"][0]["delta"], json::parse(R"({"content":"a"})"));
  EXPECT_TRUE(first[1]["choices"][0]["finish_reason"].is_null());
  EXPECT_TRUE(first[1]["usage"].is_null());
  const auto last = Events(response.Events(Output(0, "", true)));
  ASSERT_EQ(last.size(), 3u);
  EXPECT_EQ(last[0]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(last[0]["choices"][0]["delta"], json::object());
  EXPECT_EQ(last[1]["choices"], json::array());
  EXPECT_EQ(last[1]["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(last[2], "[DONE]");
}

TEST(StreamResponse, NothingToSayIsNoEvent) {
  StreamResponse response(Context({}));
  EXPECT_EQ(response.Events(Output(0, "", false)), "");
}

TEST(StreamResponse, FailureIsOneErrorEventWithoutEndMark) {
  StreamResponse response(Context({}));
  PumpOutput output;
  output.finished = true;
  output.status = {StatusCode::kUnavailable, "going down", ""};
  const auto events = Events(response.Events(output));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0]["error"]["type"], "unavailable_error");
  EXPECT_EQ(events[0]["error"]["message"], "going down");
}

TEST(ErrorBody, HasTheDocumentedForm) {
  EXPECT_EQ(json::parse(ErrorBody(InvalidArgument("bad \xff", "n"))),
            json::parse(R"({"error":{"message":"bad �","type":"invalid_request_error",
                "param":"n","code":400}})"));
  EXPECT_TRUE(json::parse(ErrorBody({StatusCode::kInternal, "x", ""}))["error"]["param"].is_null());
}

TEST(Utf8, Validity) {
  for (const char* good : {"", "a", "é", "日本", "🙂", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(IsValidUtf8(good)) << good;
  }
  for (const char* bad : {"\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "a\xe2\x82"}) {
    EXPECT_FALSE(IsValidUtf8(bad));
  }
}

}  // namespace
}  // namespace palu
