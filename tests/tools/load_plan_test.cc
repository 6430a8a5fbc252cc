// What palu-bench serve sends: traces, arrivals, prompts.
#include "tools/bench/serve/load_plan.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/test_paths.h"
#include "tools/bench/serve/sse_parser.h"
#include "tools/bench/serve/stream_client.h"

namespace palu::bench {
namespace {

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path) << text;
  return path;
}

TEST(LoadTrace, ReadsAzure) {
  const Trace trace = LoadTrace(WriteFile("azure.csv",
                                          "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
                                          "2023-11-30 23:59:59.5000000,374,44\r\n"
                                          "2023-12-01 00:00:01.7500000,396,109\r\n"));
  ASSERT_EQ(trace.requests.size(), 2u);
  EXPECT_EQ(trace.requests[0].arrival_seconds, 0);
  EXPECT_NEAR(trace.requests[1].arrival_seconds, 2.25, 1e-6);
  EXPECT_EQ(trace.requests[1].input_tokens, 396);
  EXPECT_EQ(trace.requests[1].output_tokens, 109);
  EXPECT_EQ(trace.prefix_block_tokens, 0);
}

TEST(LoadTrace, ReadsMooncake) {
  const Trace trace = LoadTrace(WriteFile(
      "mooncake.jsonl",
      R"({"timestamp": 500, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]})"
      "\n"
      R"({"timestamp": 2000, "input_length": 1100, "output_length": 6, "hash_ids": [0, 2, 3]})"));
  ASSERT_EQ(trace.requests.size(), 2u);
  EXPECT_DOUBLE_EQ(trace.requests[1].arrival_seconds, 1.5);
  EXPECT_EQ(trace.requests[1].prefix_ids, (std::vector<int64_t>{0, 2, 3}));
  EXPECT_EQ(trace.prefix_block_tokens, 512);
}

TEST(LoadTrace, NamesFileAndLineOfWhatIsWrong) {
  const auto message = [](const std::string& path) {
    try {
      LoadTrace(path);
    } catch (const std::runtime_error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const std::string csv = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6,374\n";
  EXPECT_NE(message(WriteFile("bad.csv", csv)).find("bad.csv:2: expected"), std::string::npos);
  EXPECT_NE(message(WriteFile("bad.jsonl", "{\"timestamp\": 1}\n")).find("bad.jsonl:1: expected"),
            std::string::npos);
  const auto refused = [&](const std::string& name, const std::string& line) {
    return message(WriteFile(name, line)).find(name + ":1: expected") != std::string::npos;
  };
  const std::string head = "2023-11-16 18:15:", day = "2023-11-16 ";
  for (const std::string& line :
       {head + "nan,1,1", head + "61,1,1", head + "1,2147483648,1", head + "1,1,-1",
        day + "24:00:1,1,1", std::string("99999-11-16 18:15:1,1,1"),
        head + std::string("1,1,1\0x", 7)}) {
    EXPECT_TRUE(refused("wrong.csv", line)) << line;
  }
  const auto request = [](const std::string& time, const std::string& tokens,
                          const std::string& ids) {
    return R"({"timestamp": )" + time + R"(, "input_length": )" + tokens +
           R"(, "output_length": 1, "hash_ids": )" + ids + "}";
  };
  for (const std::string& line :
       {request("1e300", "1", "[]"), request("1", "4294967297", "[]"), request("1", "1e9", "[]"),
        request("1", "18446744073709551615", "[]"), request("1", "1", "[1e300]"),
        request("1", "1", "1"), std::string("[1]")}) {
    EXPECT_TRUE(refused("wrong.jsonl", line)) << line;
  }
  EXPECT_NE(message(WriteFile("empty.csv", "TIMESTAMP,x\n")).find("no request"), std::string::npos);
  EXPECT_NE(message(WriteFile("x.txt", "")).find(".jsonl"), std::string::npos);
  EXPECT_NE(message("/nowhere.csv").find("cannot be read"), std::string::npos);
}

TEST(LoadTrace, TheEarliestRequestIsTheFirst) {
  const Trace trace =
      LoadTrace(WriteFile("late.csv", "2023-11-16 18:15:50,7,1\n2023-11-16 18:15:48,5,1\n"));
  EXPECT_EQ(trace.requests[0].input_tokens, 5);
  EXPECT_EQ(trace.requests[0].arrival_seconds, 0);
  EXPECT_EQ(trace.requests[1].arrival_seconds, 2);
}

TEST(LoadTrace, FixturesAreRead) {
  PALU_REQUIRE_FIXTURE("traces");
  EXPECT_GT(LoadTrace(palu::testing::FixturesDir() + "/traces/azure_conv_2023.csv").requests.size(),
            1000u);
  EXPECT_EQ(LoadTrace(palu::testing::FixturesDir() + "/traces/mooncake_conversation_3000.jsonl")
                .requests.size(),
            3000u);
}

TEST(ScaleTrace, KeepsPrefixesAndCutsLengths) {
  Trace trace;
  trace.prefix_block_tokens = 512;
  trace.requests = {{10, 2048, 100, {1, 2, 3, 4}}, {20, 100, 1, {1}}, {30, 5, 5, {9}}};
  const Trace scaled = Scale(trace, {2, 0.125, 2, 200, 4});
  ASSERT_EQ(scaled.requests.size(), 2u);
  EXPECT_EQ(scaled.prefix_block_tokens, 64);
  EXPECT_DOUBLE_EQ(scaled.requests[0].arrival_seconds, 5);
  EXPECT_EQ(scaled.requests[0].input_tokens, 200);
  EXPECT_EQ(scaled.requests[0].output_tokens, 4);
  EXPECT_EQ(scaled.requests[0].prefix_ids.size(), 4u);
  EXPECT_EQ(scaled.requests[1].input_tokens, 13);
  EXPECT_EQ(scaled.requests[1].output_tokens, 1);
  EXPECT_THROW(Scale(trace, {0, 1, 0, 0, 0}), std::invalid_argument);
}

TEST(PromptSource, IdsAreExactAndShareTheirPrefix) {
  PromptSource source = PromptSource::Ids(10, 20, 7);
  const auto a = source.Make(100, {1, 2, 3}, 40).get<std::vector<int>>();
  const auto b = source.Make(100, {1, 2, 4}, 40).get<std::vector<int>>();
  const auto c = source.Make(100, {1, 5, 4}, 40).get<std::vector<int>>();
  ASSERT_EQ(a.size(), 100u);
  ASSERT_EQ(b.size(), 100u);
  const auto shared = [](const auto& x, const auto& y) {
    return std::mismatch(x.begin(), x.end(), y.begin()).first - x.begin();
  };
  // Random ids may agree a little further, never less.
  EXPECT_GE(shared(a, b), 80);
  EXPECT_LT(shared(a, b), 90);
  EXPECT_GE(shared(a, c), 40);
  EXPECT_LT(shared(a, c), 50);
  for (const int id : a) {
    EXPECT_GE(id, 10);
    EXPECT_LT(id, 20);
  }
  EXPECT_THROW(PromptSource::Ids(5, 5, 1), std::invalid_argument);
}

TEST(PromptSource, WordsFollowTheRatio) {
  PromptSource source = PromptSource::Words("", 7);
  source.set_words_per_token(0.5);
  const std::string text = source.Make(20).get<std::string>();
  EXPECT_EQ(std::count(text.begin(), text.end(), ' '), 9);
  EXPECT_NE(source.Make(20).get<std::string>(), text);
}

TEST(PlanUniform, ArrivalsHaveTheRate) {
  PromptSource source = PromptSource::Ids(0, 100, 1);
  const auto poisson = PlanUniform(4000, 4, 5, 50, Arrivals::kPoisson, 3, &source);
  EXPECT_NEAR(poisson.back().start_seconds, 80, 5);
  EXPECT_EQ(poisson[17].max_tokens, 5);
  const auto fixed = PlanUniform(5, 4, 5, 50, Arrivals::kFixed, 3, &source);
  EXPECT_NEAR(fixed[4].start_seconds, 0.08, 1e-9);
  const auto again = PlanUniform(4000, 4, 5, 50, Arrivals::kPoisson, 3, &source);
  EXPECT_EQ(again[100].start_seconds, poisson[100].start_seconds);
}

TEST(SseParser, PutsCutEventsTogether) {
  const std::string text =
      ": comment\n\ndata: {\"a\":1}\r\n\r\nevent: x\ndata:[DONE]\n\ndata: half";
  for (size_t step = 1; step <= text.size(); ++step) {
    SseParser parser;
    std::vector<std::string> seen;
    for (size_t at = 0; at < text.size(); at += step) {
      parser.Feed(std::string_view(text).substr(at, step),
                  [&](std::string_view data) { seen.emplace_back(data); });
    }
    EXPECT_EQ(seen, (std::vector<std::string>{"{\"a\":1}", "[DONE]"})) << step;
  }
}

TEST(ParseServerUrl, KnowsHostPortAndPath) {
  const ServerAddress plain = ParseServerUrl("localhost:8000");
  EXPECT_EQ(plain.host + "|" + plain.port + "|" + plain.base, "localhost|8000|");
  const ServerAddress full = ParseServerUrl("http://[::1]:81/proxy/v1/");
  EXPECT_EQ(full.host + "|" + full.port + "|" + full.base, "::1|81|/proxy");
  EXPECT_EQ(ParseServerUrl("http://a/v1").port, "80");
  for (const char* bad : {"https://a", "", "http://", "a:b", "http://a?x"}) {
    EXPECT_THROW(ParseServerUrl(bad), std::invalid_argument) << bad;
  }
}

}  // namespace
}  // namespace palu::bench
