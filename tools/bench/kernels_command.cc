#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/bench/commands.h"
#include "tools/bench/kernel_bench.h"
#include "tools/bench/model_shapes.h"

namespace palu::bench {
namespace {

struct Options {
  std::string shape = "llama-3-8b";
  DummyRecipe recipe;
  BackendOptions backend;
  CacheOptions cache;
  KernelOptions kernels;
  bool json = false;
};

nlohmann::json Measure(const Options& options) {
  const std::unique_ptr<Backend> backend = CreateBackend(options.backend);
  DummyModel model = LoadShape(options.shape);
  model.recipe = options.recipe;
  KernelBench bench(backend.get(), model, options.cache, options.kernels);
  const Peaks peaks = MeasurePeaks(backend.get(), options.kernels.repetitions);
  nlohmann::json out;
  out["backend"] = backend->name() + " " + backend->isa();
  out["model"] = options.shape;
  out["peak_gb_per_s"] = peaks.bytes_per_second / 1e9;
  out["peak_tflop_per_s"] = peaks.flops_per_second / 1e12;
  for (const KernelResult& result : bench.Run()) {
    const double by_bytes = result.bytes / peaks.bytes_per_second;
    const double by_flops = result.flops / peaks.flops_per_second;
    out["kernels"].push_back({{"op", result.op},
                              {"size", result.size},
                              {"us", result.seconds * 1e6},
                              {"gb_per_s", result.bytes / result.seconds / 1e9},
                              {"tflop_per_s", result.flops / result.seconds / 1e12},
                              {"bound_us", std::max(by_bytes, by_flops) * 1e6},
                              {"bound_by", by_bytes >= by_flops ? "bytes" : "flops"},
                              {"percent", 100 * std::max(by_bytes, by_flops) / result.seconds}});
  }
  return out;
}

void PrintTable(const nlohmann::json& result) {
  std::printf("%s, shapes of %s; copy %.0f GB/s, product %.1f TFLOP/s\n",
              result["backend"].get<std::string>().c_str(),
              result["model"].get<std::string>().c_str(), result["peak_gb_per_s"].get<double>(),
              result["peak_tflop_per_s"].get<double>());
  std::printf("%-22s %-22s %10s %9s %9s %10s %-6s %6s\n", "op", "size", "us", "GB/s", "TFLOP/s",
              "bound us", "by", "%");
  for (const auto& row : result["kernels"]) {
    std::printf("%-22s %-22s %10.2f %9.0f %9.1f %10.2f %-6s %6.1f\n",
                row["op"].get<std::string>().c_str(), row["size"].get<std::string>().c_str(),
                row["us"].get<double>(), row["gb_per_s"].get<double>(),
                row["tflop_per_s"].get<double>(), row["bound_us"].get<double>(),
                row["bound_by"].get<std::string>().c_str(), row["percent"].get<double>());
  }
}

}  // namespace

void AddKernelsCommand(CLI::App* app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app->add_subcommand("kernels", "single ops beside the peaks of the same machine and run");
  command->add_option("--dummy-weights", options->shape,
                      "shapes: a config.json or one of " + ShapeNames());
  command->add_option("--device", options->backend.device, "auto | cpu | cuda:N");
  command->add_option("--cpu-isa", options->backend.cpu_isa);
  command->add_option("--threads", options->backend.cpu_threads, "0: all cores");
  command->add_option("--key-rank", options->recipe.key_rank, "numbers per group; 0: dense");
  command->add_option("--key-group", options->recipe.key_group_heads, "KV heads of a group");
  command->add_option("--value-rank", options->recipe.value_rank, "numbers per group; 0: dense");
  command->add_option("--value-group", options->recipe.value_group_heads, "KV heads of a group");
  command->add_option("--kv", options->cache.format, "cache format");
  command->add_option("--rows", options->kernels.rows, "rows of matrix products")->delimiter(',');
  command->add_option("--contexts", options->kernels.contexts, "cached tokens")->delimiter(',');
  command->add_option("--chunks", options->kernels.chunks, "queries; 1: decode")->delimiter(',');
  command->add_option("--batch", options->kernels.batch, "sequences of a decode");
  command->add_option("--repetitions", options->kernels.repetitions, "medians are over these")
      ->check(CLI::Range(1, 1000));
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
