#include "tools/bench/serve/load_report.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <map>

namespace palu::bench {
namespace {

using nlohmann::json;

std::string Text(const char* format, ...) {
  char text[256];
  va_list values;
  va_start(values, format);
  std::vsnprintf(text, sizeof(text), format, values);
  va_end(values);
  return text;
}

json Milliseconds(const std::vector<double>& seconds) {
  double sum = 0;
  for (const double value : seconds) sum += value;
  const double count = static_cast<double>(std::max<size_t>(1, seconds.size()));
  json out = {{"count", seconds.size()}, {"mean", sum / count * 1e3}};
  for (const auto& [name, q] :
       {std::pair("p50", 0.5), std::pair("p90", 0.9), std::pair("p95", 0.95),
        std::pair("p99", 0.99), std::pair("max", 1.0)}) {
    out[name] = Quantile(seconds, q) * 1e3;
  }
  return out;
}

double PerToken(const RequestRecord& record) {
  if (record.completion_tokens < 2 || record.chunk_times.size() < 2) return 0;
  return (record.chunk_times.back() - record.chunk_times.front()) / (record.completion_tokens - 1);
}

bool Meets(const RequestRecord& record, const Objectives& objectives) {
  if (!record.ok() || record.chunk_times.empty()) return false;
  const double ttft = record.chunk_times.front() - record.scheduled;
  return (objectives.ttft <= 0 || ttft <= objectives.ttft) &&
         (objectives.inter_token <= 0 || PerToken(record) <= objectives.inter_token) &&
         (objectives.end_to_end <= 0 || record.end - record.scheduled <= objectives.end_to_end);
}

json CountErrors(const LoadResult& result) {
  std::map<std::string, std::pair<int, std::string>> kinds;
  for (const RequestRecord& record : result.records) {
    if (record.error.empty()) continue;
    auto& [count, detail] = kinds[record.error];
    ++count;
    if (detail.empty()) detail = record.detail;
  }
  json out = json::array();
  for (const auto& [kind, seen] : kinds) {
    out.push_back({{"error", kind}, {"count", seen.first}, {"first", seen.second}});
  }
  return out;
}

struct Totals {
  int ok = 0;
  int cancelled = 0;
  int failed = 0;
  int good = 0;
  int64_t prompt = 0;
  int64_t cached = 0;
  int64_t completion = 0;
  int64_t chunks = 0;
};

Totals Sum(const LoadResult& result, const Objectives& objectives) {
  Totals totals;
  for (const RequestRecord& record : result.records) {
    totals.ok += record.ok();
    totals.cancelled += record.cancelled;
    totals.failed += !record.error.empty();
    totals.good += Meets(record, objectives);
    totals.prompt += record.prompt_tokens;
    totals.cached += record.cached_tokens;
    totals.completion += record.completion_tokens;
    totals.chunks += static_cast<int64_t>(record.chunk_times.size());
  }
  return totals;
}

}  // namespace

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double place = q * static_cast<double>(values.size() - 1);
  const size_t low = static_cast<size_t>(place);
  const size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (values[high] - values[low]) * (place - static_cast<double>(low));
}

LoadSamples Samples(const LoadResult& result) {
  LoadSamples samples;
  for (const RequestRecord& record : result.records) {
    samples.lateness.push_back(std::max(0.0, record.start - record.scheduled));
    for (size_t i = 1; i < record.chunk_times.size(); ++i) {
      samples.inter_chunk.push_back(record.chunk_times[i] - record.chunk_times[i - 1]);
    }
    if (!record.ok()) continue;
    // From when it should have been sent: a late client must not flatter the server.
    samples.end_to_end.push_back(record.end - record.scheduled);
    if (record.chunk_times.empty()) continue;
    samples.ttft.push_back(record.chunk_times.front() - record.scheduled);
    if (PerToken(record) > 0) samples.per_token.push_back(PerToken(record));
  }
  return samples;
}

json MakeReport(const LoadResult& result, const Objectives& objectives) {
  const Totals totals = Sum(result, objectives);
  const LoadSamples samples = Samples(result);
  const double seconds = std::max(result.seconds, 1e-9);
  json report;
  report["seconds"] = result.seconds;
  report["requests"] = {{"sent", result.records.size()},
                        {"ok", totals.ok},
                        {"failed", totals.failed},
                        {"cancelled", totals.cancelled},
                        {"peak_concurrency", result.peak_concurrency},
                        {"per_s", totals.ok / seconds}};
  report["errors"] = CountErrors(result);
  report["tokens"] = {
      {"prompt", totals.prompt},
      {"cached", totals.cached},
      {"completion", totals.completion},
      {"completion_per_s", totals.completion / seconds},
      {"total_per_s", (totals.prompt + totals.completion) / seconds},
      {"per_chunk", totals.chunks > 0 ? double(totals.completion) / totals.chunks : 0.0}};
  report["ttft_ms"] = Milliseconds(samples.ttft);
  report["inter_chunk_ms"] = Milliseconds(samples.inter_chunk);
  report["tpot_ms"] = Milliseconds(samples.per_token);
  report["e2e_ms"] = Milliseconds(samples.end_to_end);
  report["lateness_ms"] = Milliseconds(samples.lateness);
  const double asked = std::max<double>(1, double(result.records.size()) - totals.cancelled);
  report["goodput"] = {
      {"slo_ttft_ms", objectives.ttft * 1e3},      {"slo_tpot_ms", objectives.inter_token * 1e3},
      {"slo_e2e_ms", objectives.end_to_end * 1e3}, {"requests", totals.good},
      {"fraction", totals.good / asked},           {"per_s", totals.good / seconds}};
  return report;
}

std::string FormatReport(const json& report) {
  const json& requests = report["requests"];
  const json& tokens = report["tokens"];
  std::string out =
      Text("%d requests: %d ok, %d failed, %d cancelled in %.2f s\n", requests["sent"].get<int>(),
           requests["ok"].get<int>(), requests["failed"].get<int>(),
           requests["cancelled"].get<int>(), report["seconds"].get<double>());
  for (const json& error : report["errors"]) {
    out += Text("  %d x %s", error["count"].get<int>(),
                error["error"].get<std::string>().substr(0, 80).c_str());
    out += "  " + error["first"].get<std::string>() + "\n";
  }
  out += Text("%.2f requests/s, %.1f output tokens/s, %.1f tokens/s with the prompts\n",
              requests["per_s"].get<double>(), tokens["completion_per_s"].get<double>(),
              tokens["total_per_s"].get<double>());
  out += Text("prompt tokens %lld, of them cached %lld; %.2f tokens a chunk\n",
              static_cast<long long>(tokens["prompt"].get<int64_t>()),
              static_cast<long long>(tokens["cached"].get<int64_t>()),
              tokens["per_chunk"].get<double>());
  out += Text("%-16s %9s %9s %9s %9s %9s %9s\n", "ms", "mean", "p50", "p90", "p95", "p99", "max");
  for (const auto& [key, name] :
       {std::pair("ttft_ms", "first token"), std::pair("tpot_ms", "per token"),
        std::pair("inter_chunk_ms", "between chunks"), std::pair("e2e_ms", "whole request"),
        std::pair("lateness_ms", "client's delay")}) {
    const json& row = report[key];
    out += Text("%-16s %9.2f %9.2f %9.2f %9.2f %9.2f %9.2f\n", name, row["mean"].get<double>(),
                row["p50"].get<double>(), row["p90"].get<double>(), row["p95"].get<double>(),
                row["p99"].get<double>(), row["max"].get<double>());
  }
  const json& goodput = report["goodput"];
  out +=
      Text("within the objectives: %d (%.1f %%), %.2f requests/s\n", goodput["requests"].get<int>(),
           goodput["fraction"].get<double>() * 100, goodput["per_s"].get<double>());
  return out;
}

}  // namespace palu::bench
