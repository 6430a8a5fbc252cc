#include "engine/model/model_runner.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <new>
#include <optional>

#include "engine/cache/block_table.h"
#include "engine/cache/latent_cache.h"
#include "engine/model/cache_shape.h"
#include "engine/model/host_floats.h"
#include "engine/model/palu_config.h"
#include "engine/model/sampler.h"
#include "engine/model/step_staging.h"
#include "engine/model/transformer.h"
#include "engine/model/weights.h"
#include "engine/status.h"
#include "kernels/check.h"

namespace palu {
namespace {

// Logits are made and sampled this many rows at a time at least, so that scoring a prompt is not
// done row by row when few sequences may run.
constexpr int kMinLogitRows = 64;

int ContextLimit(const ModelOptions& options, const ModelConfig& config) {
  const int limit = config.max_context();
  if (options.max_context_tokens < 0 || options.max_context_tokens > limit) {
    throw LoadError("model.max_context_tokens: found " +
                    std::to_string(options.max_context_tokens) + ", expected 1 to " +
                    std::to_string(limit) + ", the limit of " + options.path +
                    "/config.json (or 0 for that)");
  }
  return options.max_context_tokens > 0 ? options.max_context_tokens : limit;
}

// Nothing: as the checkpoint has them.
std::optional<WeightFormat> FormatOfWeights(const ModelOptions& options) {
  const std::optional<WeightFormat> format = ParseWeightFormat(options.weights);
  if (format || options.weights == "auto") return format;
  throw LoadError("model.weights: found \"" + options.weights +
                  "\", expected auto, bf16, int8 or int4");
}

void CheckOptions(const EngineOptions& engine, const CacheOptions& cache) {
  const auto expect = [](const char* key, int64_t value, int64_t min, int64_t max) {
    if (value >= min && value <= max) return;
    throw LoadError(std::string(key) + ": found " + std::to_string(value) + ", expected " +
                    std::to_string(min) + " to " + std::to_string(max));
  };
  expect("engine.max_sequences", engine.max_sequences, 1, 65536);
  expect("engine.step_tokens", engine.step_tokens, 1, 1 << 20);
  expect("cache.block_tokens", cache.block_tokens, 1, 4096);
}

// Blocks that the cache's memory holds. Throws when that is less than one request of full length.
int64_t CountBlocks(const CacheOptions& options, const CacheShape& shape, size_t free_bytes,
                    int max_context) {
  const LatentLayout& layout = shape.layout;
  const bool fixed = options.memory_bytes > 0;
  const auto bytes =
      fixed ? options.memory_bytes
            : static_cast<int64_t>(options.memory_fraction * static_cast<double>(free_bytes));
  const int64_t blocks =
      std::min<int64_t>(bytes / layout.block_bytes(), INT32_MAX / layout.block_tokens());
  const int64_t needed = shape.demand.BlocksOf(max_context);
  if (blocks >= needed) return blocks;
  const std::string source = fixed ? "cache.memory"
                                   : "cache.memory_fraction " +
                                         std::to_string(options.memory_fraction) + " of " +
                                         std::to_string(free_bytes) + " free bytes";
  throw LoadError(
      source + ": found " + std::to_string(bytes) +
      " bytes = " + std::to_string(std::max<int64_t>(blocks, 0)) + " blocks of " +
      std::to_string(layout.block_tokens()) + " tokens (" + std::to_string(layout.block_bytes()) +
      " bytes each), expected at least " + std::to_string(needed * layout.block_bytes()) +
      " bytes = " + std::to_string(needed) +
      " blocks, one request of model.max_context_tokens = " + std::to_string(max_context));
}

double Seconds(std::chrono::steady_clock::time_point begin,
               std::chrono::steady_clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

bool IsDecode(const StepBatch& batch) {
  return batch.num_tokens() == batch.num_sequences() && batch.rows.size() == batch.token_ids.size();
}

// Decode steps come in few shapes on a backend that records them: 1, 2, 4, then multiples of 8
// sequences, and a power of two of blocks.
StepShape ShapeOf(const StepBatch& batch, bool padded, const StepShape& most) {
  StepShape shape{batch.num_sequences(), batch.max_blocks};
  if (!padded || !IsDecode(batch)) return shape;
  shape.sequences = shape.sequences <= 4
                        ? static_cast<int>(std::bit_ceil(static_cast<unsigned>(shape.sequences)))
                        : (shape.sequences + 7) / 8 * 8;
  shape.max_blocks =
      static_cast<int>(std::bit_ceil(static_cast<unsigned>(std::max(shape.max_blocks, 16))));
  shape.sequences = std::clamp(shape.sequences, batch.num_sequences(), most.sequences);
  shape.max_blocks = std::clamp(shape.max_blocks, batch.max_blocks, most.max_blocks);
  return shape;
}

// Key 0 marks steps that do not come again in the same shape.
uint64_t StepKey(const StepBatch& batch, const StepShape& shape) {
  if (!IsDecode(batch)) return 0;
  return static_cast<uint64_t>(shape.sequences) << 32 | static_cast<uint64_t>(shape.max_blocks);
}

DType CudaActivations(const EngineOptions& engine) {
  if (engine.cuda_activations == "bf16") return DType::kBF16;
  if (engine.cuda_activations == "f32") return DType::kF32;
  throw LoadError("engine.cuda_activations: found \"" + engine.cuda_activations +
                  "\", expected bf16 or f32");
}

// What a model is made of, before it is on a backend.
struct Checkpoint {
  ModelConfig config;
  std::vector<LayerPlan> plan;
  Safetensors files;
};

// Called with the backend that the model will run on.
using OpenCheckpoint = std::function<Checkpoint(const Backend&)>;

// The model on its backend. Members are destroyed in reverse order: the backend last.
class LoadedModel final : public ModelRunner {
 public:
  LoadedModel(const OpenCheckpoint& open, const ModelOptions& model, const EngineOptions& engine,
              const CacheOptions& cache);

  void EnterThread() override { backend_->EnterThread(); }
  StepResult Run(const StepBatch& batch) override;
  PhaseTimes last_times() const override { return times_; }
  const ModelConfig& config() const override { return config_; }
  const CacheReport& cache_report() const override { return report_; }
  const Backend& backend() const override { return *backend_; }
  void ObserveLogits(LogitsObserver observer) override { observer_ = std::move(observer); }
  EngineLimits limits() const override {
    return {.max_context_tokens = max_context_,
            .block_tokens = shape_->layout.block_tokens(),
            .num_blocks = report_.num_blocks,
            .vocab_size = config_.vocab_size,
            .eos_token_ids = config_.eos_token_ids,
            .group_windows = shape_->demand.windows,
            .max_chunk_tokens = shape_->demand.chunk_tokens,
            .num_host_blocks = report_.host_blocks,
            .cache_format_key = shape_->layout.Fingerprint(),
            .block_copy_seconds = block_copy_seconds_};
  }

 private:
  void BuildWorkspace(const EngineOptions& engine);
  void BuildCache(const CacheOptions& options);
  Tensor LogitsOf(int64_t rows) const {
    return logits_.View(DType::kF32, {rows, config_.vocab_size});
  }
  void Observe(int64_t first_row, const Tensor& logits);
  void ReadHidden(const StepBatch& batch, StepResult* result);

  std::unique_ptr<Backend> backend_;
  ModelConfig config_;
  int max_context_ = 0;
  std::vector<LayerSpec> specs_;
  std::unique_ptr<CacheShape> shape_;
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<Transformer> transformer_;
  std::unique_ptr<StepStaging> staging_;
  std::unique_ptr<Sampler> sampler_;
  int64_t max_logit_rows_ = 0;
  StepShape most_;  // of a padded step
  Buffer logits_;
  std::unique_ptr<LatentCache> cache_;
  CacheReport report_;
  double block_copy_seconds_ = 0;
  PhaseTimes times_;
  LogitsObserver observer_;
};

LoadedModel::LoadedModel(const OpenCheckpoint& open, const ModelOptions& model,
                         const EngineOptions& engine, const CacheOptions& cache) {
  CheckOptions(engine, cache);
  backend_ = CreateBackend({.device = engine.device,
                            .cpu_isa = engine.cpu_isa,
                            .cpu_threads = engine.cpu_threads,
                            .cpu_affinity = engine.cpu_affinity,
                            .cpu_numa = engine.cpu_numa,
                            .cuda_activations = CudaActivations(engine)});
  Checkpoint checkpoint = open(*backend_);
  config_ = std::move(checkpoint.config);
  max_context_ = ContextLimit(model, config_);
  specs_ = ResolveCache(checkpoint.plan, cache, checkpoint.files);
  shape_ = std::make_unique<CacheShape>(
      ShapeCache(config_, specs_, cache, max_context_, engine.step_tokens));
  weights_ = Weights::Load(std::move(checkpoint.files), config_, specs_, FormatOfWeights(model),
                           backend_.get());
  BuildWorkspace(engine);
  BuildCache(cache);
}

void LoadedModel::BuildWorkspace(const EngineOptions& engine) {
  const int max_tokens = std::max(engine.step_tokens, engine.max_sequences);
  max_logit_rows_ = std::max(engine.max_sequences, std::min(kMinLogitRows, engine.step_tokens));
  StepLimits limits = Transformer::Limits(config_, specs_);
  limits.max_tokens = max_tokens;
  limits.max_sequences = static_cast<int>(max_logit_rows_);
  limits.max_context = max_context_;
  report_.workspace_bytes = static_cast<int64_t>(backend_->Reserve(limits));
  transformer_ =
      std::make_unique<Transformer>(config_, *weights_, specs_, shape_->layout, backend_.get(),
                                    max_tokens, static_cast<int>(max_logit_rows_), max_context_);
  const int64_t max_blocks = BlocksForTokens(max_context_, shape_->layout.block_tokens()) + 1;
  most_ = {engine.max_sequences, static_cast<int>(max_blocks)};
  staging_ = std::make_unique<StepStaging>(backend_.get(), shape_->layout.num_groups(), max_tokens,
                                           engine.max_sequences, max_blocks * engine.max_sequences);
  sampler_ = std::make_unique<Sampler>(backend_.get(), config_.vocab_size, config_.eos_token_ids);
  logits_ =
      backend_->Allocate(static_cast<size_t>(max_logit_rows_ * config_.vocab_size) * sizeof(float));
  report_.workspace_bytes +=
      transformer_->workspace_bytes() + staging_->bytes() + static_cast<int64_t>(logits_.bytes());
}

void LoadedModel::BuildCache(const CacheOptions& options) {
  const LatentLayout& layout = shape_->layout;
  const int64_t blocks = CountBlocks(options, *shape_, backend_->FreeBytes(), max_context_);
  const int64_t host_blocks =
      std::min<int64_t>(options.host_memory / layout.block_bytes(), INT32_MAX);
  cache_ = std::make_unique<LatentCache>(backend_.get(), layout, blocks, host_blocks);
  block_copy_seconds_ = cache_->MeasureCopySeconds();
  report_.host_bytes = cache_->host_bytes();
  report_.host_blocks = static_cast<int>(host_blocks);
  report_.capacity_bytes = cache_->bytes();
  report_.block_bytes = layout.block_bytes();
  report_.num_blocks = static_cast<int>(blocks);
  report_.block_tokens = layout.block_tokens();
  report_.group_windows = shape_->demand.windows;
  report_.bytes_per_token = layout.bytes_per_token();
  report_.bytes_per_token_beyond_windows = shape_->bytes_per_token_beyond_windows();
  report_.bytes_per_token_uncompressed =
      2.0 * 2.0 * config_.num_layers * config_.num_kv_heads * config_.head_dim;
  report_.capacity_tokens = shape_->demand.TokensIn(blocks, max_context_);
  report_.full_length_requests =
      static_cast<double>(blocks) / static_cast<double>(shape_->demand.BlocksOf(max_context_));
  report_.weights_bytes = weights_->bytes();
  report_.layers = specs_;
}

StepResult LoadedModel::Run(const StepBatch& batch) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  cache_->Move(batch.block_moves);
  const StepShape shape = ShapeOf(batch, backend_->replays_steps(), most_);
  staging_->Upload(batch, shape);
  times_ = {.upload = Seconds(start, Clock::now())};

  const auto rows = static_cast<int64_t>(batch.rows.size());
  StepResult result;
  result.tokens.reserve(batch.rows.size());
  for (int64_t first = 0; first == 0 || first < rows; first += max_logit_rows_) {
    const auto begin = Clock::now();
    const int64_t count = std::min(rows - first, max_logit_rows_);
    const int64_t computed = std::min(staging_->logit_rows().dim(0) - first, max_logit_rows_);
    const auto logits_of_rows = [&] {
      if (count > 0) {
        transformer_->Logits(staging_->logit_rows().Rows(first, computed), LogitsOf(computed));
      }
    };
    if (first == 0) {
      backend_->RunStep(StepKey(batch, shape), [&] {
        transformer_->Forward(staging_->inputs(), cache_->pool());
        logits_of_rows();
      });
    } else {
      logits_of_rows();
    }
    const auto middle = Clock::now();
    times_.forward += Seconds(begin, middle);
    if (count == 0) break;
    if (observer_) Observe(first, LogitsOf(count));
    sampler_->Run(
        std::span(batch.rows).subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
        LogitsOf(count), &result.tokens);
    times_.sample += Seconds(middle, Clock::now());
  }
  if (!batch.pooled_tokens.empty()) ReadHidden(batch, &result);
  return result;
}

void LoadedModel::ReadHidden(const StepBatch& batch, StepResult* result) {
  PackedUpload upload(backend_.get());
  const std::span<const int32_t> tokens(batch.pooled_tokens);
  const auto width = static_cast<size_t>(config_.hidden_size);
  for (size_t first = 0; first < tokens.size(); first += static_cast<size_t>(max_logit_rows_)) {
    const size_t count = std::min(tokens.size() - first, static_cast<size_t>(max_logit_rows_));
    upload.Clear();
    const size_t at = upload.Add(tokens.subspan(first, count));
    upload.Upload();
    const Tensor hidden =
        transformer_->FinalHidden(upload.View(at, DType::kI32, {static_cast<int64_t>(count)}));
    std::vector<std::byte> bytes(count * width * SizeOf(hidden.dtype));
    backend_->CopyToHost(bytes.data(), hidden.data, bytes.size());
    const std::vector<float> values = ToFloats(bytes, hidden.dtype);
    for (size_t i = 0; i < count; ++i) {
      const auto row = values.begin() + static_cast<std::ptrdiff_t>(i * width);
      result->hidden.emplace_back(row, row + static_cast<std::ptrdiff_t>(width));
    }
  }
}

void LoadedModel::Observe(int64_t first_row, const Tensor& logits) {
  std::vector<float> host(static_cast<size_t>(logits.num_elements()));
  backend_->CopyToHost(host.data(), logits.data, host.size() * sizeof(float));
  observer_(first_row, host);
}

std::unique_ptr<ModelRunner> LoadModelOnBackend(const OpenCheckpoint& open,
                                                const ModelOptions& model,
                                                const EngineOptions& engine,
                                                const CacheOptions& cache) {
  try {
    return std::make_unique<LoadedModel>(open, model, engine, cache);
  } catch (const std::bad_alloc&) {
    throw LoadError(model.path + ": not enough memory on device " + engine.device +
                    " for weights, workspace and a cache of cache.memory = " +
                    std::to_string(cache.memory_bytes) + " bytes (0: a fraction " +
                    std::to_string(cache.memory_fraction) +
                    " of what is free), and on the host for cache.host_memory = " +
                    std::to_string(cache.host_memory) + " bytes");
  }
}

}  // namespace

std::unique_ptr<ModelRunner> ModelRunner::Load(const ModelOptions& model,
                                               const EngineOptions& engine,
                                               const CacheOptions& cache) {
  const auto open = [&](const Backend&) -> Checkpoint {
    ModelConfig config = ModelConfig::Load(model.path);
    std::vector<LayerPlan> plan = LoadPlan(model.path, config);
    return {std::move(config), std::move(plan), Safetensors::OpenDirectory(model.path)};
  };
  return LoadModelOnBackend(open, model, engine, cache);
}

std::unique_ptr<ModelRunner> ModelRunner::LoadDummy(const DummyModel& dummy,
                                                    const ModelOptions& model,
                                                    const EngineOptions& engine,
                                                    const CacheOptions& cache) {
  const auto open = [&](const Backend& backend) -> Checkpoint {
    ModelConfig config = ModelConfig::Parse(dummy.config_json, dummy.name);
    std::vector<LayerPlan> plan = DummyPlan(dummy, config);
    Safetensors files = DummyCheckpoint(dummy, config, plan, backend.host_memory());
    return {std::move(config), std::move(plan), std::move(files)};
  };
  ModelOptions named = model;
  named.path = dummy.name;
  return LoadModelOnBackend(open, named, engine, cache);
}

}  // namespace palu
