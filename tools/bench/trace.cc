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
constexpr double kMaxSeconds = 1e12;
constexpr size_t kShownBytes = 80;

[[noreturn]] void Fail(const std::string& path, int line, const std::string& expected) {
  throw std::runtime_error(path + ":" + std::to_string(line) + ": expected " + expected);
}

bool ParseAzureLine(const std::string& text, double* seconds, TraceRequest* request) {
  int year = 0, month = 0, day = 0, hour = 0, minute = 0;
  double second = 0;
  char rest = 0;
  // The widths keep every number within its type; a NUL would hide what follows it.
  if (text.find('\0') != std::string::npos ||
      std::sscanf(text.c_str(), "%4d-%2d-%2d %2d:%2d:%lf,%9d,%9d%c", &year, &month, &day, &hour,
                  &minute, &second, &request->input_tokens, &request->output_tokens, &rest) != 8) {
    return false;
  }
  const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(month),
                                         std::chrono::day(day)};
  const bool time_ok = hour >= 0 && hour < 24 && minute >= 0 && minute < 60 && second >= 0 &&
                       second < 61;  // 60: a leap second
  if (!date.ok() || !time_ok || request->input_tokens < 0 || request->output_tokens < 0) {
    return false;
  }
  const auto days = std::chrono::sys_days(date).time_since_epoch().count();
  *seconds = ((days * 24.0 + hour) * 60 + minute) * 60 + second;
  return true;
}

int TokensOf(const nlohmann::json& request, const char* key) {
  const nlohmann::json& value = request.at(key);
  const bool in_range = value.is_number_integer() && value >= 0 && value <= kMaxTraceTokens;
  if (!in_range) {
    throw std::invalid_argument(std::string(key) + " is " + value.dump().substr(0, kShownBytes) +
                                ", not a number of tokens");
  }
  return value.get<int>();
}

std::vector<int64_t> PrefixIdsOf(const nlohmann::json& request) {
  if (!request.contains("hash_ids")) return {};
  const nlohmann::json& list = request.at("hash_ids");
  const bool integers = list.is_array() && std::all_of(list.begin(), list.end(), [](auto& id) {
                          return id.is_number_integer();
                        });
  if (!integers) throw std::invalid_argument("hash_ids is not a list of integers");
  return list.get<std::vector<int64_t>>();
}

Trace ReadAzure(const std::string& path, std::istream& in) {
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
      Fail(path, line,
           "TIMESTAMP,ContextTokens,GeneratedTokens, found '" + text.substr(0, kShownBytes) + "'");
    }
    if (trace.requests.empty()) start = seconds;
    request.arrival_seconds = seconds - start;
    trace.requests.push_back(std::move(request));
  }
  return trace;
}

Trace ReadMooncake(const std::string& path, std::istream& in) {
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
      if (std::abs(seconds) > kMaxSeconds) throw std::invalid_argument("timestamp is out of range");
      if (trace.requests.empty()) start = seconds;
      request.arrival_seconds = seconds - start;
      request.input_tokens = TokensOf(json, "input_length");
      request.output_tokens = TokensOf(json, "output_length");
      request.prefix_ids = PrefixIdsOf(json);
    } catch (const std::exception& error) {
      Fail(path, line,
           std::string("an object with timestamp, input_length, output_length and hash_ids: ") +
               error.what());
    }
    trace.requests.push_back(std::move(request));
  }
  return trace;
}

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

int ScaleTokens(int tokens, double factor, int limit) {
  const double exact = std::min(static_cast<double>(kMaxTraceTokens), tokens * factor);
  const int scaled = std::max(1, static_cast<int>(std::lround(exact)));
  return limit > 0 ? std::min(scaled, limit) : scaled;
}

}  // namespace

Trace ReadTrace(std::istream& in, TraceFormat format, const std::string& name) {
  Trace trace = format == TraceFormat::kAzure ? ReadAzure(name, in) : ReadMooncake(name, in);
  if (trace.requests.empty()) throw std::runtime_error(name + ": holds no request");
  std::stable_sort(trace.requests.begin(), trace.requests.end(),
                   [](const TraceRequest& a, const TraceRequest& b) {
                     return a.arrival_seconds < b.arrival_seconds;
                   });
  // The first line need not be the first request.
  const double first = trace.requests.front().arrival_seconds;
  for (TraceRequest& request : trace.requests) request.arrival_seconds -= first;
  return trace;
}

Trace LoadTrace(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw std::runtime_error(path + ": cannot be read");
  if (EndsWith(path, ".csv")) return ReadTrace(in, TraceFormat::kAzure, path);
  if (EndsWith(path, ".jsonl")) return ReadTrace(in, TraceFormat::kMooncake, path);
  throw std::runtime_error(path +
                           ": expected a trace that ends in .csv (Azure) or .jsonl (Mooncake)");
}

Trace Scale(const Trace& trace, const TraceScale& scale) {
  if (!(scale.time > 0) || !(scale.tokens > 0)) {
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
