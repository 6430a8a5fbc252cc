// The running server: everything in the order in which it starts and stops.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/server_config.h"
#include "engine/engine.h"
#include "engine/model/model_runner.h"
#include "server/api_keys.h"
#include "server/grpc_service.h"
#include "server/http_api.h"
#include "server/http_server.h"
#include "server/model_service.h"
#include "server/request_counters.h"
#include "server/structured/structured_output.h"
#include "server/text/chat_template.h"
#include "server/text/tokenizer.h"
#include "server/text_pool.h"

namespace palu {

// What loading a checkpoint gives. Immutable but for the engine.
struct LoadedModel {
  std::unique_ptr<ModelRunner> runner;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;               // may be null
  std::unique_ptr<structured::StructuredOutput> structured;  // outlives what the engine runs
  std::unique_ptr<Engine> engine;
  ModelInfo info;
};

// Throws LoadError, or another std::exception with one line.
std::unique_ptr<LoadedModel> LoadModel(const ServerConfig& config);
// What start-up prints about it, several lines.
std::string DescribeModel(const LoadedModel& model);

// Used by the main thread only.
class App {
 public:
  // Listens at once; probes are answered while the model loads. Throws ConfigError.
  explicit App(const ServerConfig& config);
  ~App();

  // Loads the model on a thread of its own, so that signals are heard meanwhile.
  void StartLoading();
  // True once loading has ended. Throws what loading threw.
  bool PollLoaded();
  bool healthy() const;
  // Whether the engine has work, and how many steps it ever did: does it get on?
  struct Progress {
    bool running = false;
    uint64_t steps = 0;
  };
  Progress progress() const;

  // Takes keys from settings that were read again. Throws ConfigError; the old ones stay then.
  void Reload(const SecurityConfig& config);
  // The HTTP port's certificate, likewise; gRPC watches the files by itself.
  void ReloadTls();
  // Notices files that have changed; to be called now and then.
  void PollFiles();

  // Turns new requests away; running ones go on.
  void BeginDrain();
  bool drained() const;
  // Ends what still runs with an error.
  void Abort();

 private:
  class Loader;

  const ServerConfig config_;
  RequestCounters grpc_counters_;
  SecurityConfig security_;  // as read last
  ApiKeys keys_;
  ServerState state_;
  TextPool pool_;
  HttpApi api_;
  std::unique_ptr<LoadedModel> model_;
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<HttpServer> http_;
  std::vector<std::filesystem::file_time_type> tls_times_;  // of the files, when read last
  std::unique_ptr<GrpcServer> grpc_;                        // null when switched off
};

}  // namespace palu
