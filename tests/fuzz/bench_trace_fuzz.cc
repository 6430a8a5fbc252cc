// Traces of arrivals: the first byte says the format, the rest is read or refused by an error that
// names the line, and what was read keeps its promises, also at another scale.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

#include "kernels/check.h"
#include "tools/bench/trace.h"

namespace {

using palu::bench::kMaxTraceTokens;
using palu::bench::Trace;
using palu::bench::TraceRequest;

bool Within(int tokens, int least) { return tokens >= least && tokens <= kMaxTraceTokens; }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1 || size > 32768) return 0;
  const bool azure = data[0] % 2 == 0;
  std::istringstream in(std::string(reinterpret_cast<const char*>(data) + 1, size - 1));
  Trace trace;
  try {
    trace = palu::bench::ReadTrace(
        in, azure ? palu::bench::TraceFormat::kAzure : palu::bench::TraceFormat::kMooncake,
        "input");
  } catch (const std::runtime_error& error) {
    PALU_CHECK(std::string(error.what()).starts_with("input:"));
    return 0;
  }
  PALU_CHECK(!trace.requests.empty() && trace.requests.front().arrival_seconds == 0);
  double last = 0;
  for (const TraceRequest& request : trace.requests) {
    PALU_CHECK(std::isfinite(request.arrival_seconds) && request.arrival_seconds >= last);
    PALU_CHECK(Within(request.input_tokens, 0) && Within(request.output_tokens, 0));
    last = request.arrival_seconds;
  }
  for (const double factor : {1e-9, 0.125, 1e12}) {
    const Trace scaled = palu::bench::Scale(trace, {factor, factor, 0, 0, 0});
    PALU_CHECK(scaled.requests.size() == trace.requests.size());
    for (const TraceRequest& request : scaled.requests) {
      PALU_CHECK(Within(request.input_tokens, 1) && Within(request.output_tokens, 1));
      const int64_t block = scaled.prefix_block_tokens;
      const auto ids = static_cast<int64_t>(request.prefix_ids.size());
      PALU_CHECK(ids == 0 || (block > 0 && (ids - 1) * block < request.input_tokens));
    }
  }
  return 0;
}
