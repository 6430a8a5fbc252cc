#include "server/openai_request.h"

#include <gtest/gtest.h>

#include <string>

#include "server/json_fields.h"

namespace palu {
namespace {

// Status::param of the refusal; "OK" when there is none.
std::string CompletionParam(const std::string& fields) {
  const auto result = ParseCompletionRequest(R"({"prompt":"hello")" + fields + "}");
  return result ? "OK" : result.error().param;
}

std::string ChatParam(const std::string& body) {
  const auto result = ParseChatRequest(body);
  return result ? "OK" : result.error().param;
}

TEST(CompletionRequest, DefaultsAreThoseOfTheContract) {
  const auto request = ParseCompletionRequest(R"({"prompt":"hello"})");
  ASSERT_TRUE(request);
  EXPECT_EQ(request->spec.default_max_tokens, 16);
  EXPECT_FALSE(request->spec.max_tokens);
  EXPECT_EQ(request->spec.sampling.temperature, 1.0f);
  EXPECT_EQ(request->spec.sampling.top_p, 1.0f);
  EXPECT_EQ(request->spec.sampling.num_logprobs, -1);
  EXPECT_EQ(request->spec.n, 1);
  EXPECT_TRUE(request->spec.add_special_tokens);
  EXPECT_FALSE(request->options.stream);
  EXPECT_FALSE(request->spec.sampling.seed);
}

TEST(CompletionRequest, EveryParameterArrives) {
  const auto request = ParseCompletionRequest(R"({"model":"m","prompt":[[1,2],[3]],
      "max_tokens":7,"temperature":0.5,"top_p":0.25,"top_k":9,"min_p":0.125,"seed":-3,"n":2,
      "best_of":2,"stop":["a","b"],"stop_token_ids":[4],"include_stop_str_in_output":true,
      "stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true},
      "logprobs":3,"echo":true,"logit_bias":{"5":-100,"6":1.5},"frequency_penalty":-2,
      "presence_penalty":2,"repetition_penalty":1.5,"min_tokens":2,"ignore_eos":true,
      "allowed_token_ids":[1,2],"priority":-4,"user":"u","request_id":"r",
      "add_special_tokens":false,"truncate_prompt_tokens":5,"skip_special_tokens":false,
      "bad_words":["no"],"cache_salt":"mine"})");
  ASSERT_TRUE(request) << request.error().message;
  const GenerationSpec& spec = request->spec;
  const SamplingParams& s = spec.sampling;
  EXPECT_EQ(spec.model, "m");
  ASSERT_EQ(spec.prompts.size(), 2u);
  EXPECT_EQ(std::get<std::vector<int32_t>>(spec.prompts[0]), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(spec.max_tokens, 7);
  EXPECT_EQ(s.temperature, 0.5f);
  EXPECT_EQ(s.top_p, 0.25f);
  EXPECT_EQ(s.top_k, 9);
  EXPECT_EQ(s.min_p, 0.125f);
  EXPECT_EQ(s.seed, static_cast<uint64_t>(-3));
  EXPECT_EQ(spec.n, 2);
  EXPECT_EQ(spec.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(s.stop_token_ids, std::vector<int32_t>{4});
  EXPECT_TRUE(spec.include_stop_str);
  EXPECT_TRUE(request->options.stream && request->options.include_usage &&
              request->options.continuous_usage && request->options.echo);
  EXPECT_EQ(s.num_logprobs, 3);
  EXPECT_EQ(s.num_prompt_logprobs, 3) << "an echoed prompt is scored too";
  EXPECT_EQ(s.logit_bias.size(), 2u);
  EXPECT_EQ(s.frequency_penalty, -2.0f);
  EXPECT_EQ(s.presence_penalty, 2.0f);
  EXPECT_EQ(s.repetition_penalty, 1.5f);
  EXPECT_EQ(s.min_tokens, 2);
  EXPECT_TRUE(s.ignore_eos);
  EXPECT_EQ(s.allowed_token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(spec.priority, -4);
  EXPECT_EQ(spec.request_id, "r");
  EXPECT_FALSE(spec.add_special_tokens);
  EXPECT_EQ(spec.truncate_prompt_tokens, 5);
  EXPECT_FALSE(spec.skip_special_tokens);
  EXPECT_EQ(spec.bad_words, std::vector<std::string>{"no"});
  EXPECT_EQ(spec.cache_salt, "mine");
  EXPECT_EQ(spec.tenant, "u");
  EXPECT_EQ(request->options.keep, 0) << "best_of equals n";
  EXPECT_TRUE(request->unknown_fields.empty());
}

TEST(CompletionRequest, BestOfMakesMoreThanItShows) {
  const auto request = ParseCompletionRequest(R"({"prompt":"a","n":2,"best_of":5})");
  ASSERT_TRUE(request);
  EXPECT_EQ(request->spec.n, 5);
  EXPECT_EQ(request->options.keep, 2);
  EXPECT_EQ(request->spec.sampling.num_logprobs, 0) << "the choice needs log-probabilities";
}

TEST(CompletionRequest, NullMeansAbsent) {
  EXPECT_EQ(CompletionParam(R"(,"temperature":null,"stop":null,"seed":null,"logprobs":null,
      "stream_options":null,"response_format":null,"tools":null,"best_of":null,"n":null)"),
            "OK");
}

TEST(CompletionRequest, WrongValuesNameTheirField) {
  const std::pair<const char*, const char*> cases[] = {
      {R"(,"temperature":"x")", "temperature"},
      {R"(,"temperature":-1)", "temperature"},
      {R"(,"temperature":true)", "temperature"},
      {R"(,"top_p":0)", "top_p"},
      {R"(,"top_k":1.5)", "top_k"},
      {R"(,"n":0)", "n"},
      {R"(,"seed":99999999999999999999)", "seed"},
      {R"(,"stop":[1])", "stop[0]"},
      {R"(,"stop_token_ids":[1,-1])", "stop_token_ids[1]"},
      {R"(,"logit_bias":{"1":101})", "logit_bias.1"},
      {R"(,"logit_bias":{"1x":1})", "logit_bias"},
      {R"(,"stream_options":{})", "stream_options"},
      {R"(,"stream":true,"stream_options":{"include_usage":1})", "stream_options.include_usage"},
      {R"(,"stream":true,"best_of":2)", "best_of"},
      {R"(,"n":3,"best_of":2)", "best_of"},
      {R"(,"bad_words":[""])", "bad_words[0]"},
      {R"(,"cache_salt":"")", "cache_salt"},
      {R"(,"suffix":"x")", "suffix"},
      {R"(,"guided_regex":5)", "guided_regex"},
      {R"(,"guided_regex":"x","guided_choice":["y"])", "guided_choice"},
      {R"(,"guided_choice":["a",""])", "guided_choice[1]"},
      {R"(,"guided_json":"{")", "guided_json"},
      {R"(,"structured_outputs":{"choice":"a"})", "structured_outputs.choice"},
      {R"(,"response_format":{"type":"xml"})", "response_format.type"},
      {R"(,"response_format":{"type":"json_schema","json_schema":{}})",
       "response_format.json_schema"},
      {R"(,"structural_tag":"x")", "structural_tag"},
      {R"(,"tools":[{"type":"function"}])", "tools"},
      {R"(,"tool_choice":"required")", "tool_choice"},
  };
  for (const auto& [fields, param] : cases) EXPECT_EQ(CompletionParam(fields), param) << fields;
}

TEST(CompletionRequest, UnknownFieldsAreNamed) {
  const auto request = ParseCompletionRequest(R"({"prompt":"a","zeta":1,"alpha":{"n":5}})");
  ASSERT_TRUE(request);
  EXPECT_EQ(request->unknown_fields, (std::vector<std::string>{"alpha", "zeta"}));
}

TEST(CompletionRequest, TheFirstWrongFieldIsReported) {
  EXPECT_EQ(CompletionParam(R"(,"n":0,"temperature":-1)"), "n");
}

TEST(Json, BadTextIsRefused) {
  for (const char* body :
       {"", "{", "[1,]", "{\"a\":NaN}", "{\"a\":Infinity}", "{\"a\":-Infinity}", "{\"a\":1e999}",
        "\"\xff\"", "\"\\ud800\"", "{} x", "{'a':1}", "{\"a\":01}"}) {
    EXPECT_FALSE(ParseJson(body)) << body;
  }
  EXPECT_TRUE(ParseJson("\xef\xbb\xbf{\"a\":1}"));
}

TEST(Json, NestingIsBounded) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(ParseJson(nested(kMaxJsonDepth)));
  EXPECT_FALSE(ParseJson(nested(kMaxJsonDepth + 1)));
  EXPECT_TRUE(ParseJson("\"" + std::string(1000, '[') + "\"")) << "brackets in text do not nest";
  EXPECT_TRUE(
      ParseJson(R"(["\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["])"));
}

TEST(ChatRequest, MessagesBecomeWhatTemplatesExpect) {
  const auto request = ParseChatRequest(R"({"messages":[
      {"role":"system","content":"s"},
      {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
      {"role":"assistant","content":null,"tool_calls":[
          {"id":"1","function":{"name":"f","arguments":"{\"x\":1}"}}]},
      {"role":"tool","tool_call_id":"1","content":"r"}]})");
  ASSERT_TRUE(request) << request.error().message;
  const auto& messages = request->chat.messages;
  EXPECT_EQ(messages[1]["content"], "a\nb");
  EXPECT_EQ(messages[2]["content"], "");
  EXPECT_EQ(messages[2]["tool_calls"][0]["function"]["arguments"]["x"], 1);
  EXPECT_EQ(messages[3]["tool_call_id"], "1");
  EXPECT_TRUE(request->chat.add_generation_prompt);
  EXPECT_FALSE(request->spec.add_special_tokens) << "the template has them";
  EXPECT_FALSE(request->spec.default_max_tokens) << "to the model's limit";
}

TEST(ChatRequest, WrongMessagesNameTheirPath) {
  EXPECT_EQ(ChatParam("{}"), "messages");
  EXPECT_EQ(ChatParam(R"({"messages":[]})"), "messages");
  EXPECT_EQ(ChatParam(R"({"messages":[{"role":"user","content":"a"},{"role":"x"}]})"),
            "messages[1].role");
  EXPECT_EQ(ChatParam(R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})"),
            "messages[0].content[0].type");
  EXPECT_EQ(ChatParam(R"({"messages":[{"role":"assistant","tool_calls":[{}]}]})"),
            "messages[0].tool_calls[0].function");
  EXPECT_EQ(ChatParam(R"({"messages":[{"role":"user","content":"a"}],"top_logprobs":2})"),
            "top_logprobs");
}

TEST(ChatRequest, ContinuingTheLastMessageNeedsNoGenerationPrompt) {
  const std::string start = R"({"messages":[{"role":"assistant","content":"a"}],)";
  const auto request = ParseChatRequest(start + R"("continue_final_message":true})");
  ASSERT_TRUE(request);
  EXPECT_FALSE(request->chat.add_generation_prompt);
  EXPECT_EQ(ChatParam(start + R"("continue_final_message":true,"add_generation_prompt":true})"),
            "continue_final_message");
}

TEST(TokenizeRequest, TakesPromptOrMessages) {
  EXPECT_TRUE(ParseTokenizeRequest(R"({"prompt":"a"})")->add_special_tokens);
  EXPECT_FALSE(
      ParseTokenizeRequest(R"({"messages":[{"role":"user","content":"a"}]})")->add_special_tokens);
  EXPECT_EQ(ParseTokenizeRequest("{}").error().param, "prompt");
  EXPECT_EQ(ParseTokenizeRequest(R"({"prompt":"a","messages":[]})").error().param, "prompt");
  EXPECT_EQ(ParseDetokenizeRequest("{}").error().param, "tokens");
  EXPECT_EQ(ParseDetokenizeRequest(R"({"tokens":[1,"a"]})").error().param, "tokens[1]");
}

}  // namespace
}  // namespace palu
