#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "tools/bench/commands.h"
#include "tools/bench/simulator.h"

namespace palu::bench {
namespace {

struct CacheChoice {
  std::string name;
  double bytes_per_token = 0;
  double context_ns = 0;  // per cached token and sequence that a step reads
};

struct Options {
  std::string trace;
  std::vector<double> rates = {1};
  TraceScale scale;
  std::vector<std::string> caches;
  double pool_gb = 16, host_gb = 0, host_gb_per_second = 50;
  double fixed_us = 4000, token_us = 20, sequence_us = 5;
  int max_context = 131072;
  Objectives objectives;
  EngineOptions engine;
  int block_tokens = 16;
  bool json = false;
};

CacheChoice ParseCache(const std::string& text) {
  const size_t first = text.find(':');
  const size_t second = first == std::string::npos ? first : text.find(':', first + 1);
  CacheChoice choice;
  try {
    if (second == std::string::npos) throw std::invalid_argument("colons");
    choice.name = text.substr(0, first);
    choice.bytes_per_token = std::stod(text.substr(first + 1, second - first - 1));
    choice.context_ns = std::stod(text.substr(second + 1));
  } catch (const std::logic_error&) {
    throw std::invalid_argument("--cache " + text + ": expected NAME:BYTES_PER_TOKEN:NANOSECONDS");
  }
  if (choice.bytes_per_token <= 0 || choice.context_ns < 0) {
    throw std::invalid_argument("--cache " + text + ": expected positive numbers");
  }
  return choice;
}

void AddOptions(CLI::App* app, Options* o) {
  app->add_option("--trace", o->trace, "arrivals: Azure's .csv or Mooncake's .jsonl")->required();
  app->add_option("--rates", o->rates, "multiples of the trace's arrival rate")->delimiter(',');
  app->add_option("--tokens", o->scale.tokens, "multiple of the trace's lengths");
  app->add_option("--max-input", o->scale.max_input, "longer inputs of the trace are cut");
  app->add_option("--max-output", o->scale.max_output, "longer outputs of the trace are cut");
  app->add_option("--requests", o->scale.max_requests, "only the first so many; 0: all");
  app->add_option("--cache", o->caches,
                  "NAME:BYTES_PER_TOKEN:NANOSECONDS, the time per cached token that a sequence's "
                  "step reads, all layers together; once for each cache to compare")
      ->required();
  app->add_option("--pool-gb", o->pool_gb, "memory of the KV cache, 1e9 bytes");
  app->add_option("--host-gb", o->host_gb, "memory of the host tier, 1e9 bytes");
  app->add_option("--host-gb-per-second", o->host_gb_per_second, "between device and host");
  app->add_option("--fixed-us", o->fixed_us, "time of every step: weights, launches, host");
  app->add_option("--token-us", o->token_us, "time per token of a step");
  app->add_option("--sequence-us", o->sequence_us, "time per sequence of a step");
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

EngineLimits LimitsOf(const Options& o, const CacheChoice& cache) {
  const double block_bytes = cache.bytes_per_token * o.block_tokens;
  EngineLimits limits;
  limits.max_context_tokens = o.max_context;
  limits.block_tokens = o.block_tokens;
  limits.num_blocks = static_cast<int>(o.pool_gb * 1e9 / block_bytes);
  limits.num_host_blocks = static_cast<int>(o.host_gb * 1e9 / block_bytes);
  limits.vocab_size = 1 << 30;
  limits.block_copy_seconds = block_bytes / (o.host_gb_per_second * 1e9);
  if (limits.num_blocks < 1) throw std::invalid_argument("--pool-gb: holds no block");
  return limits;
}

double Mean(const std::vector<double>& values) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

nlohmann::json ToJson(const CacheChoice& cache, double rate, const EngineLimits& limits,
                      const SimulationResult& r) {
  const auto share = [](double part, double whole) { return whole > 0 ? part / whole : 0.0; };
  return {{"cache", cache.name},
          {"bytes_per_token", cache.bytes_per_token},
          {"capacity_tokens", int64_t{limits.num_blocks} * limits.block_tokens},
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
          {"prefix_hit_rate", share(static_cast<double>(r.prefix_hit_tokens),
                                    static_cast<double>(r.prefix_query_tokens))},
          {"preemptions", r.preemptions},
          {"preemptions_swapped", r.swaps},
          {"host_stored_blocks", r.host_stored_blocks},
          {"host_loaded_blocks", r.host_loaded_blocks},
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
  std::vector<CacheChoice> caches;
  for (const std::string& text : options.caches) caches.push_back(ParseCache(text));
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
    for (const CacheChoice& cache : caches) {
      const EngineLimits limits = LimitsOf(options, cache);
      StepModel model;
      model.fixed = 1e-6 * options.fixed_us;
      model.per_token = 1e-6 * options.token_us;
      model.per_sequence = 1e-6 * options.sequence_us;
      model.per_context_token = 1e-9 * cache.context_ns;
      model.per_block_move = limits.block_copy_seconds;
      const SimulationResult result =
          Simulate(scaled, options.engine, limits, model, options.objectives);
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
