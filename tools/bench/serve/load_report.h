// Figures of a load test: rates, latency percentiles, goodput under service-level objectives.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/bench/serve/load_runner.h"

namespace palu::bench {

// Seconds; 0: no such objective. A request meets them if all that are set hold.
struct Objectives {
  double ttft = 0;
  double inter_token = 0;  // the mean over a request's tokens after the first (TPOT)
  double end_to_end = 0;
};

// The q-quantile (0..1) of VALUES by linear interpolation; 0 for none.
double Quantile(std::vector<double> values, double q);

struct LoadSamples {
  std::vector<double> ttft;         // seconds, one per request that went well
  std::vector<double> inter_chunk;  // all gaps between chunks with text
  std::vector<double> per_token;    // (last - first chunk) / (tokens - 1), requests of 2 and more
  std::vector<double> end_to_end;
  std::vector<double> lateness;  // of sending, behind schedule
};
LoadSamples Samples(const LoadResult& result);

// Everything as JSON: requests, errors by kind, tokens, rates, latencies in ms, goodput.
nlohmann::json MakeReport(const LoadResult& result, const Objectives& objectives);

// A table of the report for people.
std::string FormatReport(const nlohmann::json& report);

// Cumulative distributions of TTFT, gaps and whole requests, and output tokens/s over time.
std::string MakeSvg(const LoadResult& result);

}  // namespace palu::bench
