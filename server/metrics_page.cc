#include "server/metrics_page.h"

#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "server/metrics_families.h"

namespace palu {
namespace {

void AddVllmGaugesAndCounters(const MetricsSnapshot& m, const ModelInfo& model,
                              MetricsFamilies* out) {
  out->Gauge("vllm:num_requests_running", "Requests in the running batch", m.requests_running);
  out->Gauge("vllm:num_requests_waiting", "Requests waiting to be run", m.requests_waiting);
  out->Gauge("vllm:kv_cache_usage_perc", "Part of the KV cache in use, 0 to 1",
             m.blocks_total > 0 ? static_cast<double>(m.blocks_used) / m.blocks_total : 0);
  out->Gauge("vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc by its older name",
             m.blocks_total > 0 ? static_cast<double>(m.blocks_used) / m.blocks_total : 0);
  out->Gauge("vllm:cache_config_info", "Settings of the KV cache", 1,
             {{"block_size", std::to_string(model.cache.block_tokens)},
              {"num_gpu_blocks", std::to_string(model.cache.num_blocks)},
              {"cache_dtype", model.cache_format},
              {"enable_prefix_caching", model.prefix_caching ? "True" : "False"},
              {"num_cpu_blocks", std::to_string(model.cache.host_blocks)}});
  const auto counter = [out](const char* name, const char* help, uint64_t value,
                             MetricsFamilies::Labels labels = {}) {
    out->Counter(name, help, static_cast<double>(value), std::move(labels));
  };
  counter("vllm:prompt_tokens_total", "Prompt tokens processed", m.prompt_tokens);
  counter("vllm:generation_tokens_total", "Tokens generated", m.generation_tokens);
  const char* success = "vllm:request_success_total";
  const char* success_help = "Requests finished, by reason";
  counter(success, success_help, m.finished_stop, {{"finished_reason", "stop"}});
  counter(success, success_help, m.finished_length, {{"finished_reason", "length"}});
  counter(success, success_help, m.finished_abort, {{"finished_reason", "abort"}});
  counter(success, success_help, m.finished_error, {{"finished_reason", "error"}});
  counter("vllm:num_preemptions_total", "Requests preempted", m.preemptions);
  counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache",
          m.prefix_queries_tokens);
  counter("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache",
          m.prefix_hits_tokens);
}

void AddVllmHistograms(const MetricsSnapshot& m, MetricsFamilies* out) {
  out->Histogram("vllm:time_to_first_token_seconds", "Arrival to first token",
                 m.time_to_first_token);
  out->Histogram("vllm:inter_token_latency_seconds", "Between two tokens of a choice",
                 m.inter_token_latency);
  out->Histogram("vllm:time_per_output_token_seconds",
                 "vllm:inter_token_latency_seconds by its older name", m.inter_token_latency);
  out->Histogram("vllm:request_time_per_output_token_seconds",
                 "Mean time between the tokens of a request", m.time_per_output_token);
  out->Histogram("vllm:e2e_request_latency_seconds", "Arrival to last token", m.e2e_latency);
  out->Histogram("vllm:request_queue_time_seconds", "Arrival to first step", m.queue_time);
  out->Histogram("vllm:request_prefill_time_seconds", "First step to first token", m.prefill_time);
  out->Histogram("vllm:request_decode_time_seconds", "First token to last", m.decode_time);
  out->Histogram("vllm:request_inference_time_seconds", "First step to last token",
                 m.inference_time);
  out->Histogram("vllm:request_prompt_tokens", "Prompt tokens of a request",
                 m.request_prompt_tokens);
  out->Histogram("vllm:request_generation_tokens", "Generated tokens of a request",
                 m.request_generation_tokens);
  out->Histogram("vllm:request_max_num_generation_tokens",
                 "Generated tokens of a request's longest choice", m.request_max_generation_tokens);
  out->Histogram("vllm:iteration_tokens_total", "Tokens of a step", m.iteration_tokens);
}

void AddPaluEngine(const MetricsSnapshot& m, MetricsFamilies* out) {
  for (int i = 0; i < kNumStepPhases; ++i) {
    const auto index = static_cast<size_t>(i);
    out->Histogram("palu:step_phase_seconds", "Time of one phase of an engine step",
                   m.step_phase_seconds[index], {{"phase", kStepPhaseNames[index]}});
  }
  out->Histogram("palu:step_gap_seconds", "Time that the device waited for the host between steps",
                 m.step_gap_seconds);
  out->Gauge("palu:prefill_chunk_tokens", "Prompt tokens that a step may take beside answers",
             m.chunk_tokens);
  out->Gauge("palu:queue_tokens", "Prompt tokens of requests that wait for their first step",
             static_cast<double>(m.queue_tokens));
  out->Histogram("palu:batch_sequences", "Sequences of a step", m.batch_sequences);
  out->Histogram("palu:batch_tokens", "Tokens of a step", m.batch_tokens);
  out->Counter("palu:attended_tokens_total",
               "Cached tokens that steps read, as often as they read them",
               static_cast<double>(m.attended_tokens));
  const auto labelled = [out](const char* name, const char* help, const char* reason,
                              uint64_t value) {
    out->Counter(name, help, static_cast<double>(value), {{"reason", reason}});
  };
  const char* cancelled = "palu:requests_cancelled_total";
  const char* cancelled_help = "Requests ended before their time";
  labelled(cancelled, cancelled_help, "client", m.cancelled_client);
  labelled(cancelled, cancelled_help, "deadline", m.cancelled_deadline);
  labelled(cancelled, cancelled_help, "slow_reader", m.cancelled_slow_reader);
  labelled(cancelled, cancelled_help, "shutdown", m.cancelled_shutdown);
  const char* rejected = "palu:requests_rejected_total";
  const char* rejected_help = "Requests that the engine did not take";
  labelled(rejected, rejected_help, "queue_full", m.rejected_queue_full);
  labelled(rejected, rejected_help, "queue_tokens", m.rejected_queue_tokens);
  labelled(rejected, rejected_help, "too_long", m.rejected_too_long);
  labelled(rejected, rejected_help, "draining", m.rejected_draining);
  labelled(rejected, rejected_help, "invalid", m.rejected_invalid);
}

void AddHostTier(const MetricsSnapshot& m, const CacheReport& cache, MetricsFamilies* out) {
  const auto bytes = [&cache](uint64_t blocks) {
    return static_cast<double>(blocks) * static_cast<double>(cache.block_bytes);
  };
  const char* name = "palu:host_cache_bytes";
  const char* help = "Bytes of the host tier of the KV cache: all, in use";
  out->Gauge(name, help, bytes(m.host_blocks_total), {{"kind", "capacity"}});
  out->Gauge(name, help, bytes(m.host_blocks_used), {{"kind", "used"}});
  const char* moved = "palu:host_cache_moved_bytes_total";
  const char* moved_help = "Bytes of cache blocks moved to the host and back";
  out->Counter(moved, moved_help, bytes(m.host_stored_blocks), {{"direction", "out"}});
  out->Counter(moved, moved_help, bytes(m.host_loaded_blocks), {{"direction", "in"}});
  out->Counter("palu:prefix_cache_dropped_bytes_total", "Bytes of cached prefixes that were lost",
               bytes(m.cache_dropped_blocks));
  const char* kind = "palu:preemptions_total";
  const char* kind_help = "Requests preempted, by what becomes of their blocks";
  out->Counter(kind, kind_help, static_cast<double>(m.preemptions_swapped), {{"kind", "swap"}});
  out->Counter(kind, kind_help, static_cast<double>(m.preemptions - m.preemptions_swapped),
               {{"kind", "recompute"}});
}

void AddCacheBytes(const MetricsSnapshot& m, const CacheReport& cache, MetricsFamilies* out) {
  const auto blocks = [&cache](int count) {
    return static_cast<double>(count) * static_cast<double>(cache.block_bytes);
  };
  const char* name = "palu:kv_cache_bytes";
  const char* help = "Bytes of the KV cache: all, held by requests, held for reuse, free";
  out->Gauge(name, help, static_cast<double>(cache.capacity_bytes), {{"kind", "capacity"}});
  out->Gauge(name, help, blocks(m.blocks_used), {{"kind", "used"}});
  out->Gauge(name, help, blocks(m.blocks_cached), {{"kind", "cached"}});
  out->Gauge(name, help, blocks(m.blocks_total - m.blocks_used - m.blocks_cached),
             {{"kind", "reserved"}});
  out->Gauge("palu:kv_cache_bytes_per_token", "Bytes that one token takes", cache.bytes_per_token);
  out->Gauge("palu:kv_cache_bytes_per_token_beyond_windows",
             "Bytes that one token takes once no sliding window covers it",
             cache.bytes_per_token_beyond_windows);
  out->Gauge("palu:kv_cache_bytes_per_token_uncompressed",
             "Bytes that one token would take in a plain 16-bit cache",
             cache.bytes_per_token_uncompressed);
  out->Gauge(
      "palu:kv_cache_compression_ratio", "Plain bytes over bytes taken",
      cache.bytes_per_token > 0 ? cache.bytes_per_token_uncompressed / cache.bytes_per_token : 0);
  out->Gauge("palu:kv_cache_capacity_tokens", "Tokens that the KV cache holds",
             static_cast<double>(cache.capacity_tokens));
  out->Gauge("palu:weights_bytes", "Bytes of the weights",
             static_cast<double>(cache.weights_bytes));
  out->Gauge("palu:workspace_bytes", "Bytes of scratch memory",
             static_cast<double>(cache.workspace_bytes));
}

// Numbers cached per token, all groups together; of a dense layer its full width.
double TotalRank(const ProjectionSpec& spec) {
  double rank = 0;
  for (const int group : spec.ranks) rank += group;
  return rank;
}

void AddLatentShape(const CacheReport& cache, MetricsFamilies* out) {
  const auto each = [&](const char* name, const char* help, auto value) {
    for (size_t i = 0; i < cache.layers.size(); ++i) {
      const std::string layer = std::to_string(i);
      out->Gauge(name, help, value(cache.layers[i].key), {{"layer", layer}, {"projection", "k"}});
      out->Gauge(name, help, value(cache.layers[i].value), {{"layer", layer}, {"projection", "v"}});
    }
  };
  each("palu:latent_rank", "Numbers cached per token and layer", TotalRank);
  each("palu:latent_bits", "Bits of a cached number",
       [](const ProjectionSpec& spec) { return static_cast<double>(Bits(spec.format)); });
}

void AddProcess(const MetricsInput& input, MetricsFamilies* out) {
  out->Gauge("palu:process_resident_bytes", "Resident memory of the process",
             static_cast<double>(input.process_resident_bytes));
  if (input.device_total_bytes >= 0) {
    const char* help = "Memory of the device";
    out->Gauge("palu:device_memory_bytes", help, static_cast<double>(input.device_total_bytes),
               {{"kind", "total"}});
    out->Gauge("palu:device_memory_bytes", help, static_cast<double>(input.device_free_bytes),
               {{"kind", "free"}});
  }
  for (const auto& [key, count] : input.http) {
    out->Counter("palu:http_requests_total", "HTTP requests answered", static_cast<double>(count),
                 {{"route", key.first}, {"code", key.second}});
  }
  for (const auto& [key, count] : input.grpc) {
    out->Counter("palu:grpc_requests_total", "gRPC calls answered", static_cast<double>(count),
                 {{"method", key.first}, {"code", key.second}});
  }
}

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace

std::string RenderMetrics(const MetricsInput& input) {
  MetricsFamilies families(
      {{"model_name", input.model != nullptr ? input.model->name : ""}, {"engine", "0"}});
  if (input.engine != nullptr && input.model != nullptr) {
    AddVllmGaugesAndCounters(*input.engine, *input.model, &families);
    AddVllmHistograms(*input.engine, &families);
    AddPaluEngine(*input.engine, &families);
    AddCacheBytes(*input.engine, input.model->cache, &families);
    AddHostTier(*input.engine, input.model->cache, &families);
    AddLatentShape(input.model->cache, &families);
  }
  AddProcess(input, &families);
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, families.families());
  return text.str();
}

std::string MetricsPage(const ServerState& state, const RequestCounters& http,
                        const RequestCounters& grpc) {
  MetricsInput input;
  input.http = http.Snapshot();
  input.grpc = grpc.Snapshot();
  input.process_resident_bytes = ResidentBytes();
  MetricsSnapshot engine;
  const std::shared_ptr<const ModelService> service = state.service();
  if (service != nullptr) {
    engine = service->engine().metrics();
    input.engine = &engine;
    input.model = &service->info();
    if (const Backend* backend = service->backend(); backend != nullptr) {
      input.device_free_bytes = static_cast<int64_t>(backend->FreeBytes());
      input.device_total_bytes = static_cast<int64_t>(backend->TotalBytes());
    }
  }
  return RenderMetrics(input);
}

}  // namespace palu
