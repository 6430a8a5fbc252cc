// One streamed completion over HTTP/1.1, timed as its client sees it.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/bench/serve/load_plan.h"

namespace palu::bench {

// Where a server is: http only; a TLS-terminating gateway is measured from behind.
struct ServerAddress {
  std::string host;
  std::string port;
  std::string base;  // path before /v1, without a slash at its end
};

// Reads http://HOST[:PORT][/BASE[/v1]]. Throws std::invalid_argument that says what was expected.
ServerAddress ParseServerUrl(const std::string& url);

struct ClientOptions {
  ServerAddress address;
  std::string model;
  std::string api_key;      // empty: no Authorization header
  bool chat = false;        // /v1/chat/completions with one user message; prompts must be text
  bool ignore_eos = false;  // sent only if set, since not every server knows it
  double temperature = 0;
  nlohmann::json extra = nlohmann::json::object();  // merged into every body
  double timeout_seconds = 600;                     // of a whole request
};

// Times are seconds on the steady clock.
struct RequestRecord {
  double scheduled = 0;             // when it should have been sent
  double start = 0;                 // before the connection was opened
  std::vector<double> chunk_times;  // arrival of each chunk that carried text
  double end = 0;
  int prompt_tokens = 0;      // by the server's usage, else 0
  int completion_tokens = 0;  // by its usage, else the number of chunks
  int cached_tokens = 0;
  bool cancelled = false;  // closed by us, as planned
  std::string error;       // empty: it went well; a short kind, without numbers
  std::string detail;      // the server's own words

  bool ok() const { return error.empty() && !cancelled; }
};

double SteadySeconds();

// Sends one request on a connection of its own and reads it to its end, or closes it after
// cancel_after chunks with text where that is not negative. Never throws for what the network or
// the server does: it is in the record.
boost::asio::awaitable<RequestRecord> SendRequest(const ClientOptions& options,
                                                  const PlannedRequest& request, int cancel_after);

// The id of the first model that the server lists. Throws std::runtime_error.
boost::asio::awaitable<std::string> FirstModel(const ClientOptions& options);

}  // namespace palu::bench
