#include "tools/bench/kernel_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <utility>

#include "engine/model/rope.h"
#include "engine/status.h"

namespace palu::bench {
namespace {

constexpr int64_t kColdBytes = 256 << 20;  // several times a device's cache
constexpr double kSeriesSeconds = 0.02;
constexpr int kMostCalls = 100;
constexpr int64_t kPeakCopyBytes = int64_t{1} << 30;
constexpr int64_t kPeakProduct = 8192;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int64_t Copies(int64_t bytes, int64_t most) {
  return std::clamp<int64_t>(kColdBytes / std::max<int64_t>(bytes, 1), 1, most);
}

Buffer RandomNumbers(Backend* backend, DType dtype, int64_t count) {
  std::vector<uint64_t> words(static_cast<size_t>(count + 3) / 4);
  FillWithRandomBF16(words);
  const auto* halves = reinterpret_cast<const uint16_t*>(words.data());
  const size_t bytes = static_cast<size_t>(count) * SizeOf(dtype);
  Buffer buffer = backend->Allocate(bytes);
  if (dtype != DType::kF32) {
    backend->CopyToDevice(buffer.data(), halves, bytes);
    return buffer;
  }
  std::vector<uint32_t> floats(static_cast<size_t>(count));
  for (size_t i = 0; i < floats.size(); ++i) floats[i] = uint32_t{halves[i]} << 16;
  backend->CopyToDevice(buffer.data(), floats.data(), bytes);
  return buffer;
}

int64_t Numbers(const ProjectionSpec& spec) {
  return std::accumulate(spec.ranks.begin(), spec.ranks.end(), int64_t{0});
}

}  // namespace

KernelBench::KernelBench(Backend* backend, const DummyModel& model, const CacheOptions& cache,
                         const KernelOptions& options)
    : backend_(*backend), options_(options), timer_(backend, options.repetitions) {
  config_ = ModelConfig::Parse(model.config_json, model.name);
  const std::vector<LayerPlan> plan = DummyPlan(model, config_);
  const Safetensors none = Safetensors::FromMemory(model.name, {}, nullptr);
  spec_ = ResolveCache(plan, cache, none).at(0);
  StepLimits limits;
  limits.max_tokens = *std::max_element(options.chunks.begin(), options.chunks.end());
  limits.max_sequences = options.batch;
  limits.max_context = *std::max_element(options.contexts.begin(), options.contexts.end());
  limits.max_q_heads = config_.num_heads;
  limits.max_kv_heads = config_.num_kv_heads;
  limits.max_head_dim = config_.head_dim;
  for (const ProjectionSpec* projection : {&spec_.key, &spec_.value}) {
    for (const int rank : projection->ranks) limits.max_rank = std::max(limits.max_rank, rank);
    limits.max_row_numbers =
        std::max(limits.max_row_numbers, static_cast<int>(Numbers(*projection)));
  }
  limits.hidden_size = config_.hidden_size;
  limits.max_intermediate = config_.intermediate_size;
  limits.vocab_size = config_.vocab_size;
  backend_.Reserve(limits);
}

Tensor KernelBench::Random(DType dtype, std::initializer_list<int64_t> shape) {
  buffers_.push_back(RandomNumbers(&backend_, dtype, Tensor(nullptr, dtype, shape).num_elements()));
  return buffers_.back().View(dtype, shape);
}

Tensor KernelBench::Ints(const std::vector<int32_t>& values) {
  buffers_.push_back(backend_.Allocate(values.size() * sizeof(int32_t)));
  backend_.CopyToDevice(buffers_.back().data(), values.data(), values.size() * sizeof(int32_t));
  return buffers_.back().View(DType::kI32, {static_cast<int64_t>(values.size())});
}

double CallTimer::Time(const std::function<void(int)>& fn, bool record) {
  const auto run = [&](uint64_t key, int calls) {
    const auto start = std::chrono::steady_clock::now();
    backend_.RunStep(key, [&] {
      for (int i = 0; i < calls; ++i) fn(i);
    });
    backend_.Synchronize();
    return SecondsSince(start) / calls;
  };
  run(0, 2);
  const double once = run(0, 4);
  const int calls = std::clamp(static_cast<int>(kSeriesSeconds / once), 1, kMostCalls);
  // A backend remembers what it has recorded under a key.
  static uint64_t next_key = 1;
  const uint64_t key = record ? next_key++ : 0;
  for (int i = 0; i < 2; ++i) run(key, calls);
  std::vector<double> seconds;
  for (int i = 0; i < repetitions_; ++i) seconds.push_back(run(key, calls));
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

Peaks MeasurePeaks(Backend* backend, int repetitions) {
  CallTimer timer(backend, repetitions);
  const DType type = backend->activation_dtype();
  const bool host = backend->host_memory();
  const auto bytes = static_cast<size_t>(host ? kColdBytes : kPeakCopyBytes);
  Peaks peaks;
  const Buffer from = backend->Allocate(bytes), to = backend->Allocate(bytes);
  // A recorded copy takes a slower way through the device.
  const double copy = timer.Time([&](int) { backend->CopyOnDevice(to.data(), from.data(), bytes); },
                                 /*record=*/false);
  peaks.bytes_per_second = 2.0 * static_cast<double>(bytes) / copy;
  const int64_t n = host ? kPeakProduct / 8 : kPeakProduct;
  const Buffer x = RandomNumbers(backend, type, n * n), out = RandomNumbers(backend, type, n * n);
  const Buffer weight = RandomNumbers(backend, DType::kBF16, n * n);
  const double product = timer.Time([&](int) {
    backend->Matmul({.x = x.View(type, {n, n}),
                     .weight = weight.View(DType::kBF16, {n, n}),
                     .bias = {},
                     .out = out.View(type, {n, n})});
  });
  peaks.flops_per_second = 2.0 * std::pow(static_cast<double>(n), 3) / product;
  return peaks;
}

void KernelBench::Products(std::vector<KernelResult>* results) {
  const DType type = backend_.activation_dtype();
  const int64_t hidden = config_.hidden_size, width = config_.intermediate_size;
  const int64_t q = int64_t{config_.num_heads} * config_.head_dim;
  struct Product {
    const char* name;
    std::vector<int64_t> outputs;  // of products of the same x
    int64_t depth;
  };
  const Product products[] = {{"q, k, v", {q, Numbers(spec_.key), Numbers(spec_.value)}, hidden},
                              {"o", {hidden}, q},
                              {"gate, up", {width, width}, hidden},
                              {"down", {hidden}, width},
                              {"lm_head", {config_.vocab_size}, hidden}};
  for (const Product& product : products) {
    const int64_t outputs =
        std::accumulate(product.outputs.begin(), product.outputs.end(), int64_t{0});
    const int64_t bytes = outputs * product.depth * 2;
    std::vector<std::vector<Tensor>> weights(static_cast<size_t>(Copies(bytes, 16)));
    for (auto& copy : weights) {
      for (const int64_t n : product.outputs) {
        copy.push_back(Random(DType::kBF16, {n, product.depth}));
      }
    }
    for (const int rows : options_.rows) {
      const Tensor x = Random(type, {rows, product.depth}), out = Random(type, {rows, outputs});
      const double seconds = timer_.Time([&](int i) {
        const auto& copy = weights[static_cast<size_t>(i) % weights.size()];
        std::vector<MatmulArgs> args;
        int64_t column = 0;
        for (const Tensor& weight : copy) {
          args.push_back({x, weight, {}, out.Columns(column, weight.dim(0)), false});
          column += weight.dim(0);
        }
        backend_.Matmuls(args);
      });
      const auto size = static_cast<double>(SizeOf(type));
      results->push_back(
          {std::string("matmul ") + product.name,
           std::to_string(rows) + " x " + std::to_string(outputs) + " x " +
               std::to_string(product.depth),
           seconds,
           static_cast<double>(bytes) + size * rows * static_cast<double>(outputs + product.depth),
           2.0 * rows * static_cast<double>(outputs * product.depth)});
    }
    buffers_.clear();
  }
}

LatentProjection KernelBench::Projection(const ProjectionSpec& spec,
                                         const std::vector<LatentSegment>& segments,
                                         std::vector<Tensor>* factors) {
  if (!spec.dense) {
    for (const int rank : spec.ranks) {
      factors->push_back(
          Random(DType::kBF16, {int64_t{spec.heads_per_group} * config_.head_dim, rank}));
    }
  }
  return {segments, spec.heads_per_group, *factors};
}

void KernelBench::Attention(int context, int queries, std::vector<KernelResult>* results) {
  const DType type = backend_.activation_dtype();
  const int batch = queries == 1 ? options_.batch : 1, block = 16;
  const LatentLayout layout({spec_}, block);
  const int blocks = (context + block - 1) / block;
  const int64_t pool_bytes = layout.block_bytes() * blocks * batch;
  const int64_t copies = Copies(pool_bytes, 64);
  const Tensor memory = Random(DType::kBF16, {pool_bytes * copies / 2});
  std::vector<Tensor> key_factors, value_factors;
  LatentAttentionArgs args;
  args.key = Projection(spec_.key, layout.layers()[0].key, &key_factors);
  args.value = Projection(spec_.value, layout.layers()[0].value, &value_factors);
  const int64_t tokens = int64_t{batch} * queries;
  args.q = Random(type, {tokens, config_.num_heads, config_.head_dim});
  args.out = Random(type, {tokens, config_.num_heads, config_.head_dim});
  std::vector<int32_t> cu_seqlens = {0}, tables(static_cast<size_t>(blocks) * batch);
  for (int s = 0; s < batch; ++s) cu_seqlens.push_back(cu_seqlens.back() + queries);
  const std::vector<int32_t> contexts(static_cast<size_t>(batch), context);
  std::iota(tables.begin(), tables.end(), 0);
  args.cu_seqlens = Ints(cu_seqlens);
  args.context_lens = Ints(contexts);
  args.host_cu_seqlens = cu_seqlens;
  args.host_context_lens = contexts;
  args.block_tables = Ints(tables);
  args.block_tables = Tensor(args.block_tables.data, DType::kI32, {batch, blocks});
  args.cos_sin = Random(DType::kF32, {context, config_.ropes[0].rotary_dim});
  args.kv_heads = config_.num_kv_heads;
  args.scale = config_.attention_scale;
  args.pool = {nullptr, layout.block_bytes(), block, blocks * batch};
  const double seconds = timer_.Time([&](int i) {
    args.pool.data = memory.ptr<std::byte>() + i % copies * pool_bytes;
    backend_.LatentAttention(args);
  });
  const double seen = context - (queries - 1) / 2.0;
  const double flops = 4.0 * tokens * seen * config_.num_heads * config_.head_dim;
  results->push_back(
      {queries == 1 ? "attention decode" : "attention prefill",
       std::to_string(batch) + " x " + std::to_string(queries) + " of " + std::to_string(context),
       seconds, static_cast<double>(pool_bytes), queries == 1 ? 0.0 : flops});
  buffers_.clear();
}

void KernelBench::Write(int tokens, std::vector<KernelResult>* results) {
  const LatentLayout layout({spec_}, 16);
  const int blocks = (tokens + 15) / 16;
  const int64_t numbers = Numbers(spec_.key);
  const Tensor x = Random(backend_.activation_dtype(), {tokens, numbers});
  const Tensor pool = Random(DType::kBF16, {layout.block_bytes() * blocks / 2});
  std::vector<int64_t> slots(static_cast<size_t>(tokens));
  std::iota(slots.begin(), slots.end(), 0);
  buffers_.push_back(backend_.Allocate(slots.size() * sizeof(int64_t)));
  backend_.CopyToDevice(buffers_.back().data(), slots.data(), slots.size() * sizeof(int64_t));
  LatentWriteArgs args;
  args.x = x;
  args.slot_mapping = buffers_.back().View(DType::kI64, {tokens});
  std::vector<Tensor> factors;
  args.projection = Projection(spec_.key, layout.layers()[0].key, &factors);
  args.pool = {pool.ptr<std::byte>(), layout.block_bytes(), 16, blocks};
  const double seconds = timer_.Time([&](int) { backend_.LatentWrite(args); });
  double bytes = static_cast<double>(numbers) * tokens *
                 static_cast<double>(SizeOf(backend_.activation_dtype()));
  for (const LatentSegment& segment : layout.layers()[0].key) {
    bytes += static_cast<double>(tokens) *
             static_cast<double>(segment.row_bytes + (IsQuantized(segment.format) ? 4 : 0));
  }
  results->push_back({"latent write of keys", std::to_string(tokens), seconds, bytes, 0.0});
  buffers_.clear();
}

std::vector<KernelResult> KernelBench::Run() {
  std::vector<KernelResult> results;
  Products(&results);
  for (const int queries : options_.chunks) {
    Write(queries, &results);
    for (const int context : options_.contexts) {
      if (queries <= context) Attention(context, queries, &results);
    }
  }
  return results;
}

}  // namespace palu::bench
