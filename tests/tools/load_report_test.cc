// Figures of palu-bench serve from made-up records.
#include "tools/bench/serve/load_report.h"

#include <gtest/gtest.h>

namespace palu::bench {
namespace {

RequestRecord Record(double scheduled, std::vector<double> chunks, double end, int tokens) {
  RequestRecord record;
  record.scheduled = scheduled;
  record.start = scheduled + 0.01;
  record.chunk_times = std::move(chunks);
  record.end = end;
  record.prompt_tokens = 100;
  record.cached_tokens = 40;
  record.completion_tokens = tokens;
  return record;
}

LoadResult Made() {
  LoadResult result;
  result.records.push_back(Record(10, {10.2, 10.3, 10.5}, 10.6, 3));
  result.records.push_back(Record(11, {12.0, 12.1}, 12.2, 2));
  RequestRecord cancelled = Record(12, {12.5}, 12.6, 1);
  cancelled.cancelled = true;
  result.records.push_back(cancelled);
  RequestRecord failed = Record(13, {}, 13.1, 0);
  failed.error = "HTTP 429";
  failed.detail = "queue full";
  failed.prompt_tokens = failed.cached_tokens = 0;
  result.records.push_back(failed);
  result.seconds = 4;
  result.peak_concurrency = 2;
  return result;
}

TEST(Quantile, Interpolates) {
  EXPECT_EQ(Quantile({}, 0.5), 0);
  EXPECT_EQ(Quantile({3}, 0.99), 3);
  EXPECT_DOUBLE_EQ(Quantile({4, 1, 3, 2}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(Quantile({1, 2, 3, 4, 5}, 0.9), 4.6);
}

TEST(MakeReport, CountsAndTimes) {
  const nlohmann::json report = MakeReport(Made(), {0.5, 0.2, 0});
  EXPECT_EQ(report["requests"]["ok"], 2);
  EXPECT_EQ(report["requests"]["failed"], 1);
  EXPECT_EQ(report["requests"]["cancelled"], 1);
  EXPECT_EQ(report["errors"][0]["error"], "HTTP 429");
  EXPECT_EQ(report["errors"][0]["first"], "queue full");
  EXPECT_EQ(report["tokens"]["completion"], 6);
  EXPECT_EQ(report["tokens"]["cached"], 120);
  EXPECT_DOUBLE_EQ(report["tokens"]["completion_per_s"].get<double>(), 1.5);
  // From the scheduled time, not from the late sending.
  EXPECT_NEAR(report["ttft_ms"]["p50"].get<double>(), 600, 1e-6);
  EXPECT_NEAR(report["ttft_ms"]["max"].get<double>(), 1000, 1e-6);
  EXPECT_EQ(report["ttft_ms"]["count"], 2);
  EXPECT_NEAR(report["tpot_ms"]["mean"].get<double>(), (150 + 100) / 2.0, 1e-6);
  EXPECT_EQ(report["inter_chunk_ms"]["count"], 3);
  EXPECT_NEAR(report["e2e_ms"]["max"].get<double>(), 1200, 1e-6);
  EXPECT_NEAR(report["lateness_ms"]["max"].get<double>(), 10, 1e-6);
  // Only the first meets the objective for the first token; who was cancelled does not count.
  EXPECT_EQ(report["goodput"]["requests"], 1);
  EXPECT_NEAR(report["goodput"]["fraction"].get<double>(), 1 / 3.0, 1e-9);
  EXPECT_NE(FormatReport(report).find("2 ok, 1 failed, 1 cancelled"), std::string::npos);
}

TEST(MakeReport, NothingCameBack) {
  LoadResult result;
  RequestRecord failed;
  failed.error = "Connection refused";
  result.records.push_back(failed);
  const nlohmann::json report = MakeReport(result, {});
  EXPECT_EQ(report["ttft_ms"]["p99"], 0);
  EXPECT_EQ(report["goodput"]["fraction"], 0);
  EXPECT_NE(MakeSvg(result).find("</svg>"), std::string::npos);
}

TEST(MakeSvg, DrawsEverySeries) {
  const std::string svg = MakeSvg(Made());
  for (const char* name : {"first token", "between chunks", "whole request", "output tokens/s"}) {
    EXPECT_NE(svg.find(name), std::string::npos) << name;
  }
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
}

}  // namespace
}  // namespace palu::bench
