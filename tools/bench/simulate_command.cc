#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/cache_shape.h"
#include "tools/bench/commands.h"
#include "tools/bench/model_shapes.h"
#include "tools/bench/simulator.h"

namespace palu::bench {
namespace {

// One cache to compare, with what its steps take.
struct Choice {
  std::string name;
  int block_tokens = 16;
  double block_bytes = 0;  // of any layer group
  std::vector<int> group_windows = {0};
  StepModel step;

  double bytes_per_token() const {
    return block_bytes * static_cast<double>(group_windows.size()) / block_tokens;
  }
};

struct Options {
  std::string trace;
  std::vector<double> rates = {1};
  TraceScale scale;
  std::vector<std::string> caches, costs;
  double pool_gb = 16, host_gb = 0, host_gb_per_second = 50;
  double fixed_us = 4000, token_us = 20, sequence_us = 5;
  double before_us = 0, after_us = 0;
  double cost_factor = 1;
  int max_context = 131072;
  Objectives objectives;
  EngineOptions engine;
  int block_tokens = 16;
  bool json = false;
};

void AddOptions(CLI::App* app, Options* o) {
  app->add_option("--trace", o->trace, "arrivals: Azure's .csv or Mooncake's .jsonl")->required();
  app->add_option("--rates", o->rates, "multiples of the trace's arrival rate")->delimiter(',');
  app->add_option("--tokens", o->scale.tokens, "multiple of the trace's lengths");
  app->add_option("--max-input", o->scale.max_input, "longer inputs of the trace are cut");
  app->add_option("--max-output", o->scale.max_output, "longer outputs of the trace are cut");
  app->add_option("--requests", o->scale.max_requests, "only the first so many; 0: all");
  CLI::App* caches = app->add_option_group("caches", "what is compared");
  caches->require_option(1, 2);
  caches->add_option("--cache", o->caches,
                     "NAME:BYTES:NANOSECONDS, once for each cache to compare: bytes per token, or "
                     "MODEL@FORMAT, a config.json or a name of --dummy-weights with the format of "
                     "its cache; the time per cached token that a sequence's step reads, all "
                     "layers together");
  caches->add_option("--costs", o->costs,
                     "NAME=FILE as palu-bench costs wrote it, once for each: cache and times of a "
                     "model that was measured");
  app->add_option("--pool-gb", o->pool_gb, "memory of the KV cache, 1e9 bytes");
  app->add_option("--host-gb", o->host_gb, "memory of the host tier, 1e9 bytes");
  app->add_option("--host-gb-per-second", o->host_gb_per_second, "between device and host");
  app->add_option("--fixed-us", o->fixed_us, "time of every step: weights, launches, host");
  app->add_option("--token-us", o->token_us, "time per token of a step");
  app->add_option("--sequence-us", o->sequence_us, "time per sequence of a step");
  app->add_option("--cost-factor", o->cost_factor,
                  "all times of steps are multiplied by this: a machine so many times slower")
      ->check(CLI::PositiveNumber);
  app->add_option("--before-us", o->before_us, "from a request's being sent to the engine");
  app->add_option("--after-us", o->after_us, "from a token's step to its reader");
  app->add_option("--max-context", o->max_context, "tokens of a request at most");
  app->add_option("--block-tokens", o->block_tokens, "tokens per cache block");
  app->add_option("--first-token-s", o->objectives.first_token_seconds,
                  "objective: seconds to the first token");
  app->add_option("--inter-token-s", o->objectives.inter_token_seconds,
                  "objective: mean seconds between tokens");
  app->add_option("--max-sequences", o->engine.max_sequences, "as engine.max_sequences");
  app->add_option("--step-tokens", o->engine.step_tokens, "as engine.step_tokens");
  app->add_option("--max-queue-requests", o->engine.max_queue_requests,
                  "as engine.max_queue_requests");
  app->add_option("--target-inter-token-ms", o->engine.target_inter_token_ms,
                  "as engine.target_inter_token_ms");
  app->add_option("--policy", o->engine.policy, "as engine.policy")
      ->check(CLI::IsMember({"priority", "fcfs", "fair"}));
  app->add_option("--prefix-caching", o->engine.prefix_caching, "as engine.prefix_caching");
  app->add_flag("--json", o->json, "print JSON");
}

// A name and what follows the first such character.
std::pair<std::string, std::string> Split(const std::string& text, char at, const char* expected) {
  const size_t place = text.find(at);
  if (place == std::string::npos || place == 0 || place + 1 == text.size()) {
    throw std::invalid_argument(expected + (", found " + text));
  }
  return {text.substr(0, place), text.substr(place + 1)};
}

std::optional<double> ParseNumber(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !std::isfinite(value)) return std::nullopt;
  return value;
}

// Without weights: what the layers of that config cache, densely.
void ShapeModel(const std::string& model, const Options& options, Choice* choice) {
  const auto [name, format] = Split(model, '@', "--cache: expected MODEL@FORMAT");
  const DummyModel dummy = LoadShape(name);
  const ModelConfig config = ModelConfig::Parse(dummy.config_json, dummy.name);
  CacheOptions cache;
  cache.block_tokens = options.block_tokens;
  cache.format = format;
  const std::vector<LayerSpec> specs =
      ResolveCache(DummyPlan(dummy, config), cache, Safetensors::FromMemory(dummy.name, {}, {}));
  const int context = std::min(options.max_context, config.max_context());
  const CacheShape shape = ShapeCache(config, specs, cache, context, options.engine.step_tokens);
  choice->block_bytes = static_cast<double>(shape.layout.block_bytes());
  choice->group_windows = shape.demand.windows;
  choice->step.layers = ShareLayers(config);
}

Choice ParseCache(const std::string& text, const Options& options) {
  const char* expected = "--cache: expected NAME:BYTES_PER_TOKEN:NANOSECONDS";
  const auto [name, rest] = Split(text, ':', expected);
  const size_t last = rest.rfind(':');
  const auto context_ns = ParseNumber(last == std::string::npos ? "" : rest.substr(last + 1));
  if (!context_ns || *context_ns < 0) throw std::invalid_argument(expected + (", found " + text));
  Choice choice;
  choice.name = name;
  choice.block_tokens = options.block_tokens;
  const std::string bytes = rest.substr(0, last);
  if (const auto number = ParseNumber(bytes)) {
    choice.block_bytes = *number * options.block_tokens;
    if (*number <= 0) throw std::invalid_argument(expected + (", found " + text));
  } else {
    ShapeModel(bytes, options, &choice);
  }
  choice.step.fixed = 1e-6 * options.fixed_us;
  choice.step.per_token = 1e-6 * options.token_us;
  choice.step.per_sequence = 1e-6 * options.sequence_us;
  choice.step.per_decode_context = choice.step.per_chunk_context = 1e-9 * *context_ns;
  return choice;
}

Choice ReadCosts(const std::string& text) {
  const auto [name, path] = Split(text, '=', "--costs: expected NAME=FILE");
  const MeasuredCosts costs = LoadCosts(path);
  return {name, costs.block_tokens, costs.block_bytes, costs.group_windows, costs.step};
}

EngineLimits LimitsOf(const Options& o, const Choice& choice) {
  EngineLimits limits;
  limits.max_context_tokens = o.max_context;
  limits.block_tokens = choice.block_tokens;
  limits.num_blocks = static_cast<int>(o.pool_gb * 1e9 / choice.block_bytes);
  limits.num_host_blocks = static_cast<int>(o.host_gb * 1e9 / choice.block_bytes);
  limits.group_windows = choice.group_windows;
  limits.max_chunk_tokens = o.engine.step_tokens;
  limits.vocab_size = 1 << 30;
  limits.block_copy_seconds = choice.block_bytes / (o.host_gb_per_second * 1e9);
  if (limits.num_blocks < 1) throw std::invalid_argument("--pool-gb: holds no block");
  return limits;
}

double Mean(const std::vector<double>& values) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

nlohmann::json ToJson(const Choice& cache, double rate, const EngineLimits& limits,
                      const SimulationResult& r) {
  const auto share = [](double part, double whole) { return whole > 0 ? part / whole : 0.0; };
  return {
      {"cache", cache.name},
      {"bytes_per_token", cache.bytes_per_token()},
      {"group_windows", cache.group_windows},
      {"blocks", limits.num_blocks},
      {"capacity_tokens", limits.demand().TokensIn(limits.num_blocks, limits.max_context_tokens)},
      {"rate", rate},
      {"requests", r.requests},
      {"served", r.served},
      {"refused_queue", r.refused_queue},
      {"refused_too_long", r.refused_too_long},
      {"within_objectives", r.within_objectives},
      {"goodput_per_second", share(r.within_objectives, r.seconds)},
      {"output_tokens_per_second", share(static_cast<double>(r.output_tokens), r.seconds)},
      {"seconds", r.seconds},
      {"prompt_tokens", r.prompt_tokens},
      {"output_tokens", r.output_tokens},
      {"first_token_mean_s", Mean(r.first_token_seconds)},
      {"first_token_p50_s", Percentile(r.first_token_seconds, 0.5)},
      {"first_token_p99_s", Percentile(r.first_token_seconds, 0.99)},
      {"inter_token_mean_s", Mean(r.inter_token_seconds)},
      {"inter_token_p50_s", Percentile(r.inter_token_seconds, 0.5)},
      {"inter_token_p99_s", Percentile(r.inter_token_seconds, 0.99)},
      {"prefix_hit_tokens", r.prefix_hit_tokens},
      {"prefix_hit_rate",
       share(static_cast<double>(r.prefix_hit_tokens), static_cast<double>(r.prefix_query_tokens))},
      {"preemptions", r.preemptions},
      {"preemptions_swapped", r.swaps},
      {"host_stored_blocks", r.host_stored_blocks},
      {"host_loaded_blocks", r.host_loaded_blocks},
      {"most_blocks", r.most_blocks},
      {"steps", r.steps},
      {"step_mean_s", share(r.busy_seconds, static_cast<double>(r.steps))},
      {"most_running", r.most_running},
      {"mean_running", r.mean_running}};
}

void PrintRow(const nlohmann::json& row) {
  std::printf("%-14s %8.2f %9d %7d %8d %8d %9.2f %9.2f %9.1f %9.1f %7.3f %9d %7d %8.1f\n",
              row["cache"].get<std::string>().c_str(), row["rate"].get<double>(),
              row["requests"].get<int>(), row["served"].get<int>(),
              row["refused_queue"].get<int>() + row["refused_too_long"].get<int>(),
              row["within_objectives"].get<int>(), row["first_token_p50_s"].get<double>(),
              row["first_token_p99_s"].get<double>(), 1e3 * row["inter_token_p50_s"].get<double>(),
              1e3 * row["inter_token_p99_s"].get<double>(), row["prefix_hit_rate"].get<double>(),
              row["preemptions"].get<int>(), row["preemptions_swapped"].get<int>(),
              row["mean_running"].get<double>());
}

void RunCommand(const Options& options) {
  const Trace trace = LoadTrace(options.trace);
  std::vector<Choice> caches;
  for (const std::string& text : options.caches) caches.push_back(ParseCache(text, options));
  for (const std::string& text : options.costs) caches.push_back(ReadCosts(text));
  const FrontEnd front_end{1e-6 * options.before_us, 1e-6 * options.after_us};
  nlohmann::json rows = nlohmann::json::array();
  if (!options.json) {
    std::printf("%-14s %8s %9s %7s %8s %8s %9s %9s %9s %9s %7s %9s %7s %8s\n", "cache", "rate",
                "requests", "served", "refused", "within", "ttft p50", "ttft p99", "itl p50",
                "itl p99", "hits", "preempted", "swapped", "running");
  }
  for (const double rate : options.rates) {
    TraceScale scale = options.scale;
    scale.time = rate;
    const Trace scaled = Scale(trace, scale);
    for (const Choice& cache : caches) {
      const EngineLimits limits = LimitsOf(options, cache);
      StepModel model = Slower(cache.step, options.cost_factor);
      model.per_block_move = limits.block_copy_seconds;
      const SimulationResult result =
          Simulate(scaled, options.engine, limits, model, options.objectives, front_end);
      rows.push_back(ToJson(cache, rate, limits, result));
      if (!options.json) PrintRow(rows.back());
    }
  }
  if (options.json) std::printf("%s\n", rows.dump(1).c_str());
}

}  // namespace

void AddSimulateCommand(CLI::App* app) {
  CLI::App* command = app->add_subcommand(
      "simulate", "The scheduler and caches under a trace, with a cost model for a device");
  auto options = std::make_shared<Options>();
  options->engine.max_sequences = 256;
  options->engine.step_tokens = 2048;
  AddOptions(command, options.get());
  command->callback([options] { RunCommand(*options); });
}

}  // namespace palu::bench
