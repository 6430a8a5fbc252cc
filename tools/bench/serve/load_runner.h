// Sends planned requests to a server, at their times or so many at once, and keeps what came back.
#pragma once

#include <vector>

#include "tools/bench/serve/stream_client.h"

namespace palu::bench {

struct LoadOptions {
  // 0: open loop, every request starts at its time whatever the server does; else a closed loop of
  // so many clients, each with one request in flight.
  int concurrency = 0;
  double cancel_fraction = 0;  // of the requests are closed by us at a random chunk
  uint64_t seed = 1;           // of the choice which
  bool progress = true;        // a line on stderr, renewed every half second
};

struct LoadResult {
  std::vector<RequestRecord> records;  // by the order of the plan
  double seconds = 0;                  // first request sent to last one ended
  int peak_concurrency = 0;
};

// Runs the whole plan on the calling thread.
LoadResult RunLoad(const ClientOptions& client, const LoadOptions& options,
                   const std::vector<PlannedRequest>& plan);

}  // namespace palu::bench
