#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/bench/commands.h"
#include "tools/bench/engine_bench.h"
#include "tools/bench/model_shapes.h"

namespace palu::bench {
namespace {

struct Options {
  ModelOptions model;
  std::string shape;  // of a model without weights; empty: model.path
  DummyRecipe recipe;
  EngineOptions engine;
  CacheOptions cache;
  std::vector<int> prompts = {512, 1500};
  std::vector<int> contexts = {1, 1024, 1900};
  std::vector<int> batches = {1, 4, 16};
  int steps = 16;
  int repetitions = 5;
  bool json = false;
};

void AddOptions(CLI::App* app, Options* options) {
  CLI::App* source = app->add_option_group("model")->require_option(1);
  source->add_option("--model", options->model.path, "checkpoint directory");
  source->add_option("--dummy-weights", options->shape,
                     "random weights of these shapes: a config.json or one of " + ShapeNames());
  DummyRecipe& recipe = options->recipe;
  app->add_option("--key-rank", recipe.key_rank, "numbers per group of keys; 0: dense");
  app->add_option("--key-group", recipe.key_group_heads, "KV heads that share a latent of keys");
  app->add_option("--value-rank", recipe.value_rank, "numbers per group of values; 0: dense");
  app->add_option("--value-group", recipe.value_group_heads,
                  "KV heads that share a latent of values");
  app->add_option("--max-context", options->model.max_context_tokens, "0: the model's own limit");
  app->add_option("--max-sequences", options->engine.max_sequences, "largest decode batch");
  app->add_option("--device", options->engine.device, "auto | cpu | cuda:N");
  app->add_option("--cpu-isa", options->engine.cpu_isa,
                  "auto | portable | avx2 | avx512 | avx512_vnni | avx512_bf16");
  app->add_option("--threads", options->engine.cpu_threads, "0: all cores");
  app->add_option("--cuda-activations", options->engine.cuda_activations, "bf16 | f32");
  app->add_option("--step-tokens", options->engine.step_tokens, "largest prefill chunk");
  app->add_option("--kv", options->cache.format, "cache format of layers left open");
  app->add_option("--rotation", options->cache.rotation, "auto | none | hadamard");
  app->add_option("--cache-bytes", options->cache.memory_bytes, "bytes of the KV pool");
  app->add_option("--prompts", options->prompts, "prompt lengths, tokens")->delimiter(',');
  app->add_option("--contexts", options->contexts, "decode contexts, tokens")->delimiter(',');
  app->add_option("--batches", options->batches, "decode batch sizes")->delimiter(',');
  app->add_option("--steps", options->steps, "decode steps a repetition")
      ->check(CLI::Range(1, 1 << 20));
  app->add_option("--repetitions", options->repetitions, "medians are over these")
      ->check(CLI::Range(1, 1000));
  app->add_flag("--json", options->json, "print JSON");
}

std::unique_ptr<ModelRunner> Load(const Options& options) {
  if (options.shape.empty()) {
    return ModelRunner::Load(options.model, options.engine, options.cache);
  }
  DummyModel dummy = LoadShape(options.shape);
  dummy.recipe = options.recipe;
  return ModelRunner::LoadDummy(dummy, options.model, options.engine, options.cache);
}

nlohmann::json Measure(const Options& options) {
  const auto runner = Load(options);
  EngineBench bench(runner.get(), options.engine.step_tokens, options.repetitions);
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
                               {"tokens_per_s", batch / result.seconds}});
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
