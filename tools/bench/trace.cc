#include "tools/bench/trace.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace palu::bench {
namespace {

constexpr int kMooncakeBlockTokens = 512;

[[noreturn]] void Fail(const std::string& path, int line, const std::string& expected) {
  throw std::runtime_error(path + ":" + std::to_string(line) + ": expected " + expected);
}

bool ParseAzureLine(const std::string& text, double* seconds, TraceRequest* request) {
  int year = 0, month = 0, day = 0, hour = 0, minute = 0;
  double second = 0;
  char rest = 0;
  if (std::sscanf(text.c_str(), "%d-%d-%d %d:%d:%lf,%d,%d%c", &year, &month, &day, &hour, &minute,
                  &second, &request->input_tokens, &request->output_tokens, &rest) != 8) {
    return false;
  }
  const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(month),
                                         std::chrono::day(day)};
  if (!date.ok() || request->input_tokens < 0 || request->output_tokens < 0) return false;
  const auto days = std::chrono::sys_days(date).time_since_epoch().count();
  *seconds = ((days * 24.0 + hour) * 60 + minute) * 60 + second;
  return true;
}

Trace LoadAzure(const std::string& path, std::istream& in) {
  Trace trace;
  std::string text;
  int line = 0;
  double start = 0;
  while (std::getline(in, text)) {
    ++line;
    if (!text.empty() && text.back() == '\r') text.pop_back();
    if (text.empty() || text.rfind("TIMESTAMP", 0) == 0) continue;
    TraceRequest request;
    double seconds = 0;
    if (!ParseAzureLine(text, &seconds, &request)) {
      Fail(path, line, "TIMESTAMP,ContextTokens,GeneratedTokens, found '" + text + "'");
    }
    if (trace.requests.empty()) start = seconds;
    request.arrival_seconds = seconds - start;
    trace.requests.push_back(std::move(request));
  }
  return trace;
}

Trace LoadMooncake(const std::string& path, std::istream& in) {
  Trace trace;
  trace.prefix_block_tokens = kMooncakeBlockTokens;
  std::string text;
  int line = 0;
  double start = 0;
  while (std::getline(in, text)) {
    ++line;
    if (text.empty()) continue;
    TraceRequest request;
    try {
      const nlohmann::json json = nlohmann::json::parse(text);
      const double seconds = json.at("timestamp").get<double>() / 1000;
      if (trace.requests.empty()) start = seconds;
      request.arrival_seconds = seconds - start;
      request.input_tokens = json.at("input_length").get<int>();
      request.output_tokens = json.at("output_length").get<int>();
      request.prefix_ids = json.value("hash_ids", std::vector<int64_t>());
    } catch (const nlohmann::json::exception& error) {
      Fail(path, line,
           std::string("an object with timestamp, input_length, output_length and hash_ids: ") +
               error.what());
    }
    if (request.input_tokens < 0 || request.output_tokens < 0) {
      Fail(path, line, "lengths that are not negative");
    }
    trace.requests.push_back(std::move(request));
  }
  return trace;
}

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

int ScaleTokens(int tokens, double factor, int limit) {
  const int scaled = std::max(1, static_cast<int>(std::lround(tokens * factor)));
  return limit > 0 ? std::min(scaled, limit) : scaled;
}

}  // namespace

Trace LoadTrace(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw std::runtime_error(path + ": cannot be read");
  Trace trace;
  if (EndsWith(path, ".csv")) {
    trace = LoadAzure(path, in);
  } else if (EndsWith(path, ".jsonl")) {
    trace = LoadMooncake(path, in);
  } else {
    throw std::runtime_error(path +
                             ": expected a trace that ends in .csv (Azure) or .jsonl "
                             "(Mooncake)");
  }
  if (trace.requests.empty()) throw std::runtime_error(path + ": holds no request");
  std::stable_sort(trace.requests.begin(), trace.requests.end(),
                   [](const TraceRequest& a, const TraceRequest& b) {
                     return a.arrival_seconds < b.arrival_seconds;
                   });
  return trace;
}

Trace Scale(const Trace& trace, const TraceScale& scale) {
  if (scale.time <= 0 || scale.tokens <= 0) {
    throw std::invalid_argument("a trace is scaled by positive factors");
  }
  Trace scaled;
  if (trace.prefix_block_tokens > 0) {
    scaled.prefix_block_tokens = ScaleTokens(trace.prefix_block_tokens, scale.tokens, 0);
  }
  for (const TraceRequest& request : trace.requests) {
    if (scale.max_requests > 0 && static_cast<int>(scaled.requests.size()) == scale.max_requests) {
      break;
    }
    TraceRequest copy = request;
    copy.arrival_seconds = request.arrival_seconds / scale.time;
    copy.input_tokens = ScaleTokens(request.input_tokens, scale.tokens, scale.max_input);
    copy.output_tokens = ScaleTokens(request.output_tokens, scale.tokens, scale.max_output);
    if (scaled.prefix_block_tokens > 0) {
      const size_t blocks =
          (copy.input_tokens + scaled.prefix_block_tokens - 1) / scaled.prefix_block_tokens;
      copy.prefix_ids.resize(std::min(copy.prefix_ids.size(), blocks));
    }
    scaled.requests.push_back(std::move(copy));
  }
  return scaled;
}

}  // namespace palu::bench
