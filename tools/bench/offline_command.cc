#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "tools/bench/commands.h"
#include "tools/bench/model_options.h"
#include "tools/bench/offline_bench.h"

namespace palu::bench {
namespace {

struct Options {
  ModelSource source;
  OfflineOptions offline;
  bool json = false;
};

double Percentile(const std::vector<double>& ascending, double share) {
  if (ascending.empty()) return 0;
  return ascending[static_cast<size_t>(share * static_cast<double>(ascending.size() - 1))];
}

nlohmann::json Measure(const Options& options) {
  const auto runner = LoadModel(options.source);
  EngineOptions engine_options = options.source.engine;
  engine_options.max_queue_requests = options.offline.requests;
  Engine engine(engine_options, runner->limits(), runner.get());
  const OfflineResult result = ServeOffline(&engine, options.offline);
  const double requests = options.offline.requests;
  const double waiting = result.schedule + result.commit + result.upload;
  return {{"backend", runner->backend().name() + " " + runner->backend().isa()},
          {"requests", options.offline.requests},
          {"prompt_tokens", options.offline.prompt_tokens},
          {"output_tokens", options.offline.output_tokens},
          {"kv_bytes_per_token", runner->cache_report().bytes_per_token},
          {"pool_bytes", runner->cache_report().capacity_bytes},
          {"seconds", result.seconds},
          {"output_tokens_per_s", requests * options.offline.output_tokens / result.seconds},
          {"prompt_tokens_per_s", requests * options.offline.prompt_tokens / result.seconds},
          {"most_running", result.most_running},
          {"preemptions", result.preemptions},
          {"ttft_p50_ms", Percentile(result.first_token_seconds, 0.5) * 1e3},
          {"ttft_p99_ms", Percentile(result.first_token_seconds, 0.99) * 1e3},
          {"itl_p50_ms", Percentile(result.inter_token_seconds, 0.5) * 1e3},
          {"itl_p99_ms", Percentile(result.inter_token_seconds, 0.99) * 1e3},
          {"step_seconds",
           {{"schedule", result.schedule},
            {"upload", result.upload},
            {"forward", result.forward},
            {"sample", result.sample},
            {"commit", result.commit}}},
          {"device_waits_percent", 100 * waiting / (waiting + result.forward + result.sample)}};
}

void PrintTable(const nlohmann::json& result) {
  for (const auto& [name, value] : result.items()) {
    std::printf("%-22s %s\n", name.c_str(), value.dump().c_str());
  }
}

}  // namespace

void AddOfflineCommand(CLI::App* app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app->add_subcommand("offline", "requests served by the engine without a server around it");
  AddModelOptions(command, &options->source);
  command->add_option("--requests", options->offline.requests, "all submitted at the start")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--prompt", options->offline.prompt_tokens, "tokens of every prompt")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--output", options->offline.output_tokens, "tokens of every answer")
      ->check(CLI::Range(1, 1 << 20));
  command->add_flag("--json", options->json, "print JSON");
  command->callback([options] {
    const nlohmann::json result = Measure(*options);
    if (options->json) {
      std::printf("%s\n", result.dump(2).c_str());
    } else {
      PrintTable(result);
    }
  });
}

}  // namespace palu::bench
