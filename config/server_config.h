// Settings of the server: what they are, and where they come from. Later sources win:
// YAML file < PALU_* environment < flags. One table (config_table.h) describes every key.
#pragma once

#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "config/engine_config.h"

namespace palu {

// A setting that is unknown or wrong. what() is one line: source (file:line, environment variable
// or flag), key, the value found and the one expected.
class ConfigError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct HttpConfig {
  std::string address = "0.0.0.0";
  int port = 8000;       // 0: any free port
  int threads = 2;       // socket threads
  int text_threads = 0;  // JSON, tokenizing and detokenizing, also for gRPC; 0: cores, at most 4
  int max_connections = 4096;
  int64_t max_header_bytes = 64 << 10;
  int64_t max_body_bytes = 16 << 20;
  std::chrono::milliseconds header_timeout{10'000};
  std::chrono::milliseconds body_timeout{30'000};
  std::chrono::milliseconds idle_timeout{75'000};   // kept-alive connection without a request
  std::chrono::milliseconds write_timeout{60'000};  // client that does not read
  std::chrono::milliseconds sse_keepalive{15'000};  // comment line after so much silence
  std::chrono::milliseconds tcp_keepalive{60'000};  // silent peers are probed after it; 0: never
  std::chrono::milliseconds slow_request{0};        // logged as a warning from here on; 0: never
  bool log_prompts = false;                         // request bodies in the log
  bool debug = false;                               // GET /debug/engine
  std::vector<std::string> cors_origins = {"*"};    // allowed origins; empty: no CORS headers
};

struct GrpcConfig {
  bool enabled = true;
  std::string address = "0.0.0.0";
  int port = 8001;  // 0: any free port
  int64_t max_message_bytes = 16 << 20;
  std::chrono::milliseconds keepalive{60'000};  // silent peers are pinged after it; 0: never
};

// Who may ask.
struct SecurityConfig {
  std::vector<std::string> api_keys;  // bearer keys; with those of the file. None: all may ask
  std::string api_keys_file;          // a key per line, # comments; empty: none
  int max_requests_per_key = 0;       // at once; 0: no limit
};

// Of both ports. PEM files; read again when they change.
struct TlsConfig {
  std::string cert_file;       // certificate and chain; empty: no TLS
  std::string key_file;        // its private key
  std::string client_ca_file;  // clients must show a certificate of these; empty: they need none
};

struct LogConfig {
  std::string level = "info";   // trace | debug | info | warning | error | off
  std::string format = "text";  // text | json
};

struct ShutdownConfig {
  std::chrono::milliseconds drain_timeout{30'000};
};

struct ServerConfig {
  HttpConfig http;
  GrpcConfig grpc;
  ModelOptions model;
  EngineOptions engine;
  CacheOptions cache;
  SecurityConfig security;
  TlsConfig tls;
  LogConfig log;
  ShutdownConfig shutdown;
};

enum class StartAction { kServe, kCheckConfig, kPrintConfig, kVersion, kHelp };

struct CommandLine {
  StartAction action = StartAction::kServe;
  ServerConfig config;
  std::vector<std::string>
      warnings;  // one line each, for the log: PALU_* variables that are no key
};

// Sets the keys of a YAML document in config. name is how errors call the document.
// Throws ConfigError.
void ApplyYaml(const std::string& text, const std::string& name, ServerConfig* config);

// Reads the arguments of main, the YAML file that --config (or PALU_CONFIG) names, and the
// environment given as "NAME=value" strings. Flags are --section.key=value; --model, --port and
// --config are short forms. Throws ConfigError; checks values and the combinations of keys, but no
// file besides the YAML one.
CommandLine ParseCommandLine(const std::vector<std::string>& args,
                             const std::vector<std::string>& environment);
// The environment of this process, as ParseCommandLine takes it.
std::vector<std::string> ProcessEnvironment();

// Throws ConfigError if the server cannot start with this, e.g. because model.path is not set.
void CheckServable(const ServerConfig& config);

// All keys with their effective values and a comment each; ApplyYaml reads it back.
std::string ToYaml(const ServerConfig& config);
// What --help prints.
std::string HelpText();
// docs/configuration.md.
std::string ConfigReferenceMarkdown();

}  // namespace palu
