#include <cstdio>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>

#include "tools/bench/commands.h"
#include "tools/bench/model_options.h"
#include "tools/bench/step_costs.h"

namespace palu::bench {
namespace {

struct Options {
  ModelSource source;
  int repetitions = 9;
  std::string out;
};

void PrintChecks(const CostMeasurement& measurement) {
  const StepModel& step = measurement.costs.step;
  std::printf(
      "%s on %s: %.1f us between steps; cached tokens %.2f ns (decoding), %.2f ns (chunk), "
      "%.3f ns a pair\n",
      measurement.costs.model.c_str(), measurement.costs.backend.c_str(), 1e6 * step.fixed,
      1e9 * step.per_decode_context, 1e9 * step.per_chunk_context, 1e9 * step.per_chunk_pair);
  std::printf("steps that are not in the table:\n%9s %9s %14s %12s %12s %7s\n", "tokens",
              "sequences", "cached tokens", "measured ms", "by table ms", "ratio");
  for (const CostCheck& check : measurement.checks) {
    const double told = step.Seconds(check.work);
    std::printf("%9d %9d %14.0f %12.3f %12.3f %7.2f\n", check.work.tokens, check.work.sequences,
                check.work.decode_context + check.work.chunk_context, 1e3 * check.measured_seconds,
                1e3 * told, told / check.measured_seconds);
  }
}

void Run(const Options& options) {
  ModelSource source = options.source;
  source.cache.group_layers = false;
  const auto runner = LoadModel(source);
  CostMeasurement measurement =
      MeasureCosts(runner.get(), source.engine, source.cache, options.repetitions);
  measurement.costs.model = source.shape.empty() ? source.model.path : source.shape;
  PrintChecks(measurement);
  std::ofstream out(options.out);
  out << ToJson(measurement.costs) << "\n";
  out.close();
  if (!out) throw std::runtime_error(options.out + ": cannot be written");
}

}  // namespace

void AddCostsCommand(CLI::App* app) {
  auto options = std::make_shared<Options>();
  CLI::App* costs = app->add_subcommand(
      "costs", "measures what steps of a model take on this machine, for simulate --costs");
  AddModelOptions(costs, &options->source);
  costs->add_option("--repetitions", options->repetitions, "medians are over these")
      ->check(CLI::Range(1, 1000));
  costs->add_option("--out", options->out, "the table, as JSON")->required();
  costs->callback([options] { Run(*options); });
}

}  // namespace palu::bench
