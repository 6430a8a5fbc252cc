#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/bench/commands.h"
#include "tools/bench/engine_bench.h"
#include "tools/bench/model_options.h"

namespace palu::bench {
namespace {

struct Options {
  ModelSource source;
  std::vector<int> prompts = {512, 1500};
  std::vector<int> contexts = {1, 1024, 1900};
  std::vector<int> batches = {1, 4, 16};
  int steps = 16;
  int repetitions = 5;
  bool json = false;
};

void AddOptions(CLI::App* app, Options* options) {
  AddModelOptions(app, &options->source);
  app->add_option("--prompts", options->prompts, "prompt lengths, tokens")->delimiter(',');
  app->add_option("--contexts", options->contexts, "decode contexts, tokens")->delimiter(',');
  app->add_option("--batches", options->batches, "decode batch sizes")->delimiter(',');
  app->add_option("--steps", options->steps, "decode steps a repetition")
      ->check(CLI::Range(1, 1 << 20));
  app->add_option("--repetitions", options->repetitions, "medians are over these")
      ->check(CLI::Range(1, 1000));
  app->add_flag("--json", options->json, "print JSON");
}

nlohmann::json Measure(const Options& options) {
  ModelSource source = options.source;
  source.cache.group_layers = false;
  const auto runner = LoadModel(source);
  EngineBench bench(runner.get(), options.source.engine.step_tokens, options.repetitions);
  nlohmann::json out;
  out["backend"] = runner->backend().name() + " " + runner->backend().isa();
  out["kv_bytes_per_token"] = runner->cache_report().bytes_per_token;
  out["weights_bytes"] = runner->cache_report().weights_bytes;
  for (const int prompt : options.prompts) {
    const PrefillResult result = bench.Prefill(prompt);
    out["prefill"].push_back({{"prompt_tokens", prompt},
                              {"ms", result.seconds * 1e3},
                              {"tokens_per_s", prompt / result.seconds}});
  }
  for (const int context : options.contexts) {
    for (const int batch : options.batches) {
      const DecodeResult result = bench.Decode(batch, context, options.steps);
      out["decode"].push_back({{"batch", batch},
                               {"context_tokens", context},
                               {"step_ms", result.seconds * 1e3},
                               {"forward_ms", result.phases.forward * 1e3},
                               {"sample_ms", result.phases.sample * 1e3},
                               {"tokens_per_s", batch / result.seconds},
                               {"mean_tokens_per_s", batch / result.mean_seconds}});
    }
  }
  return out;
}

void PrintTable(const nlohmann::json& result) {
  std::printf("backend %s, %.1f KV bytes per token, %.1f MB of weights\n",
              result["backend"].get<std::string>().c_str(),
              result["kv_bytes_per_token"].get<double>(),
              result["weights_bytes"].get<double>() / 1e6);
  std::printf("%-10s %8s %8s %10s %10s\n", "phase", "batch", "context", "ms", "tokens/s");
  for (const auto& row : result.value("prefill", nlohmann::json::array())) {
    std::printf("%-10s %8d %8d %10.3f %10.1f\n", "prefill", 1, row["prompt_tokens"].get<int>(),
                row["ms"].get<double>(), row["tokens_per_s"].get<double>());
  }
  for (const auto& row : result.value("decode", nlohmann::json::array())) {
    std::printf("%-10s %8d %8d %10.3f %10.1f\n", "decode", row["batch"].get<int>(),
                row["context_tokens"].get<int>(), row["step_ms"].get<double>(),
                row["tokens_per_s"].get<double>());
  }
}

}  // namespace

void AddEngineCommand(CLI::App* app) {
  auto options = std::make_shared<Options>();
  CLI::App* engine = app->add_subcommand("engine", "prefill and decode speed without a server");
  AddOptions(engine, options.get());
  engine->callback([options] {
    const nlohmann::json result = Measure(*options);
    if (options->json) {
      std::printf("%s\n", result.dump(2).c_str());
    } else {
      PrintTable(result);
    }
  });
}

}  // namespace palu::bench
