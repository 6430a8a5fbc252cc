// Recorded request arrivals: the Azure LLM inference traces (CSV: TIMESTAMP, ContextTokens,
// GeneratedTokens) and Mooncake's (JSON lines: timestamp in ms, input_length, output_length,
// hash_ids, where equal ids at the head of two requests mean a shared prefix of that many blocks of
// 512 tokens).
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

namespace palu::bench {

inline constexpr int kMaxTraceTokens = 1'000'000'000;

struct TraceRequest {
  double arrival_seconds = 0;  // since the first request
  int input_tokens = 0;        // both from 0 to kMaxTraceTokens
  int output_tokens = 0;
  std::vector<int64_t> prefix_ids;  // one per started block of the input; empty: nothing is shared
};

struct Trace {
  std::vector<TraceRequest> requests;  // by arrival
  int prefix_block_tokens = 0;         // tokens that one prefix id stands for; 0: no ids
};

enum class TraceFormat { kAzure, kMooncake };

// name: of the file, for errors. Throws std::runtime_error that names file, line and what was
// expected.
Trace ReadTrace(std::istream& in, TraceFormat format, const std::string& name);
// Reads PATH by its ending, .csv or .jsonl, and throws likewise.
Trace LoadTrace(const std::string& path);

struct TraceScale {
  double time = 1;       // arrival times are divided by this: 2 means twice the rate
  double tokens = 1;     // lengths and prefix blocks are multiplied by this, at least one token
  int max_requests = 0;  // the first so many; 0: all
  int max_input = 0;     // longer inputs are cut to their head; 0: not
  int max_output = 0;    // 0: not
};

// The same requests at another rate and size; relations between prefixes are kept.
Trace Scale(const Trace& trace, const TraceScale& scale);

}  // namespace palu::bench
