#include <sys/resource.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <stdexcept>

#include "tools/bench/commands.h"
#include "tools/bench/serve/load_plan.h"
#include "tools/bench/serve/load_report.h"
#include "tools/bench/serve/load_runner.h"

namespace palu::bench {
namespace {

struct Options {
  std::string url;
  ClientOptions client;
  LoadOptions load;
  std::string endpoint = "completions";
  std::string extra;
  int requests = 64;
  int input_tokens = 128;
  int output_tokens = 128;
  double rate = 0;
  std::string arrivals = "poisson";
  std::string trace;
  TraceScale scale;
  std::string ids;
  std::string text;
  int warmup = 0;
  double slo_ttft_ms = 0;
  double slo_tpot_ms = 0;
  double slo_e2e_ms = 0;
  bool quiet = false;
  std::string json;
  std::string svg;
  int pid = 0;
};

void AddTrafficOptions(CLI::App* app, Options* options) {
  app->add_option("--requests", options->requests, "how many; with --trace the first so many")
      ->check(CLI::Range(1, 10'000'000));
  app->add_option("--concurrency", options->load.concurrency,
                  "closed loop: so many clients, each with one request in flight")
      ->check(CLI::Range(1, 100'000));
  app->add_option("--rate", options->rate, "open loop: requests a second")
      ->check(CLI::PositiveNumber);
  app->add_option("--arrivals", options->arrivals, "of the open loop: poisson | fixed")
      ->check(CLI::IsMember({"poisson", "fixed"}));
  app->add_option(
      "--trace", options->trace,
      "open loop: arrivals and lengths from an Azure (.csv) or Mooncake (.jsonl) trace");
  app->add_option("--trace-speed", options->scale.time, "2: twice as fast as recorded")
      ->check(CLI::PositiveNumber);
  app->add_option("--trace-tokens", options->scale.tokens, "lengths are multiplied by this")
      ->check(CLI::PositiveNumber);
  app->add_option("--max-input", options->scale.max_input, "longer inputs of a trace are cut");
  app->add_option("--max-output", options->scale.max_output, "longer outputs of a trace are cut");
  app->add_option("--input-tokens", options->input_tokens, "prompt tokens of a request")
      ->check(CLI::Range(1, 1 << 24));
  app->add_option("--output-tokens", options->output_tokens, "max_tokens of a request")
      ->check(CLI::Range(1, 1 << 24));
  app->add_option("--ids", options->ids,
                  "prompts are arrays of random token ids from LOW:HIGH instead of text");
  app->add_option("--text", options->text, "prompts are random words of this file");
  app->add_option("--cancel", options->load.cancel_fraction,
                  "this fraction of the requests is closed before its end")
      ->check(CLI::Range(0.0, 1.0));
  app->add_option("--warmup", options->warmup, "unmeasured requests first")
      ->check(CLI::Range(0, 1'000'000));
  app->add_option("--seed", options->load.seed, "of prompts, arrivals and cancels");
}

void AddOptions(CLI::App* app, Options* options) {
  app->add_option("--url", options->url, "http://HOST[:PORT][/PATH], with or without /v1")
      ->required();
  app->add_option("--model", options->client.model, "default: the first that the server lists");
  app->add_option("--api-key", options->client.api_key, "default: OPENAI_API_KEY")
      ->envname("OPENAI_API_KEY");
  app->add_option("--endpoint", options->endpoint, "completions | chat")
      ->check(CLI::IsMember({"completions", "chat"}));
  app->add_option("--temperature", options->client.temperature, "0: greedy");
  app->add_flag("--ignore-eos", options->client.ignore_eos, "send ignore_eos: true");
  app->add_option("--extra", options->extra, "JSON object merged into each body");
  app->add_option("--timeout", options->client.timeout_seconds, "seconds of a whole request")
      ->check(CLI::PositiveNumber);
  AddTrafficOptions(app, options);
  app->add_option("--slo-ttft-ms", options->slo_ttft_ms, "objective for the first token");
  app->add_option("--slo-tpot-ms", options->slo_tpot_ms, "objective for the mean of the others");
  app->add_option("--slo-e2e-ms", options->slo_e2e_ms, "objective for the whole request");
  app->add_option("--json", options->json, "write the report to this file, - for standard output");
  app->add_option("--svg", options->svg, "draw the latencies and the throughput");
  app->add_option("--pid", options->pid, "server process: report its memory and CPU time too");
  app->add_flag("--quiet", options->quiet, "no progress line");
}

template <typename T>
T Await(boost::asio::awaitable<T> task) {
  boost::asio::io_context context(1);
  auto result = boost::asio::co_spawn(context, std::move(task), boost::asio::use_future);
  context.run();
  return result.get();
}

PromptSource MakeSource(const Options& options) {
  if (options.ids.empty()) return PromptSource::Words(options.text, options.load.seed);
  int low = 0, high = 0;
  char rest = 0;
  if (std::sscanf(options.ids.c_str(), "%d:%d%c", &low, &high, &rest) != 2) {
    throw std::invalid_argument("--ids: expected LOW:HIGH, found '" + options.ids + "'");
  }
  return PromptSource::Ids(low, high, options.load.seed);
}

// Text becomes tokens on the server: a few one-token requests tell how many words make one.
void FitWords(const Options& options, PromptSource* source) {
  for (int round = 0; round < 3; ++round) {
    const PlannedRequest probe{0, source->Make(options.input_tokens), 1};
    const RequestRecord record = Await(SendRequest(options.client, probe, -1));
    if (!record.error.empty()) {
      throw std::runtime_error("the first request failed: " + record.error + " " + record.detail);
    }
    // A server without usage: the guess stays.
    if (record.prompt_tokens == 0) return;
    const double ratio = source->words_per_token() * options.input_tokens / record.prompt_tokens;
    source->set_words_per_token(ratio);
  }
}

std::vector<PlannedRequest> MakePlan(const Options& options, PromptSource* source) {
  if (!options.trace.empty()) {
    TraceScale scale = options.scale;
    scale.max_requests = options.requests;
    return PlanTrace(Scale(LoadTrace(options.trace), scale), source);
  }
  const Arrivals arrivals = options.arrivals == "fixed" ? Arrivals::kFixed : Arrivals::kPoisson;
  return PlanUniform(options.requests, options.input_tokens, options.output_tokens, options.rate,
                     arrivals, options.load.seed, source);
}

// Resident and peak bytes and CPU seconds of a process, from /proc; null if it is not there.
nlohmann::json ReadProcess(int pid) {
  const std::string root = "/proc/" + std::to_string(pid);
  std::ifstream status(root + "/status");
  nlohmann::json out;
  for (std::string line; std::getline(status, line);) {
    long long kib = 0;
    if (std::sscanf(line.c_str(), "VmRSS: %lld", &kib) == 1) out["resident_bytes"] = kib * 1024;
    if (std::sscanf(line.c_str(), "VmHWM: %lld", &kib) == 1) out["peak_bytes"] = kib * 1024;
  }
  std::ifstream stat(root + "/stat");
  std::string text;
  std::getline(stat, text);
  const size_t name_end = text.rfind(')');
  unsigned long long user = 0, system = 0;
  if (name_end != std::string::npos &&
      std::sscanf(text.c_str() + name_end + 1,
                  " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) == 2) {
    out["cpu_s"] = double(user + system) / double(sysconf(_SC_CLK_TCK));
  }
  return out;
}

double OwnCpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

void WriteFile(const std::string& path, const std::string& content) {
  if (path == "-") {
    std::fputs(content.c_str(), stdout);
    return;
  }
  std::ofstream out(path);
  out << content;
  out.close();
  if (!out) throw std::runtime_error(path + ": cannot be written");
}

void Prepare(Options* options) {
  const int modes = (options->load.concurrency > 0) + (options->rate > 0) + !options->trace.empty();
  if (modes != 1) {
    throw std::invalid_argument("expected one of --concurrency, --rate and --trace");
  }
  ClientOptions& client = options->client;
  client.address = ParseServerUrl(options->url);
  client.chat = options->endpoint == "chat";
  if (client.chat && !options->ids.empty()) {
    throw std::invalid_argument("--ids needs --endpoint completions: a chat message is text");
  }
  if (!options->extra.empty()) {
    client.extra = nlohmann::json::parse(options->extra, nullptr, false);
    if (!client.extra.is_object()) {
      throw std::invalid_argument("--extra: expected a JSON object, found '" + options->extra +
                                  "'");
    }
  }
  options->load.progress = !options->quiet;
  if (client.model.empty()) client.model = Await(FirstModel(client));
}

void Serve(Options* options) {
  Prepare(options);
  PromptSource source = MakeSource(*options);
  if (source.is_text()) FitWords(*options, &source);
  const std::vector<PlannedRequest> plan = MakePlan(*options, &source);
  for (int i = 0; i < options->warmup; ++i) {
    const PlannedRequest request{0, source.Make(options->input_tokens), options->output_tokens};
    Await(SendRequest(options->client, request, -1));
  }
  nlohmann::json before;
  if (options->pid > 0) before = ReadProcess(options->pid);
  const double own = OwnCpuSeconds();
  const LoadResult result = RunLoad(options->client, options->load, plan);
  nlohmann::json report = MakeReport(
      result, {options->slo_ttft_ms / 1e3, options->slo_tpot_ms / 1e3, options->slo_e2e_ms / 1e3});
  report["model"] = options->client.model;
  report["client_cpu_s"] = OwnCpuSeconds() - own;
  if (options->pid > 0) {
    nlohmann::json process = ReadProcess(options->pid);
    if (process.contains("cpu_s")) {
      process["cpu_s"] = process["cpu_s"].get<double>() - before.value("cpu_s", 0.0);
    }
    report["process"] = process;
  }
  if (options->json != "-") std::fputs(FormatReport(report).c_str(), stdout);
  if (!options->json.empty()) WriteFile(options->json, report.dump(2) + "\n");
  if (!options->svg.empty()) WriteFile(options->svg, MakeSvg(result));
  if (report["requests"]["failed"].get<int>() > 0 && report["requests"]["ok"].get<int>() == 0) {
    throw std::runtime_error("every request failed");
  }
}

}  // namespace

void AddServeCommand(CLI::App* app) {
  auto options = std::make_shared<Options>();
  CLI::App* serve =
      app->add_subcommand("serve", "load on a running OpenAI-style server, ours or another");
  AddOptions(serve, options.get());
  serve->callback([options] { Serve(options.get()); });
}

}  // namespace palu::bench
