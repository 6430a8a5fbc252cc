#include "engine/model/transformer.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/model/rope.h"
#include "kernels/check.h"

namespace palu {
namespace {

int64_t RowNumbers(const ProjectionSpec& spec) {
  return std::accumulate(spec.ranks.begin(), spec.ranks.end(), int64_t{0});
}

}  // namespace

StepLimits Transformer::Limits(const ModelConfig& config, const std::vector<LayerSpec>& specs) {
  StepLimits limits;
  limits.max_q_heads = config.num_heads;
  limits.max_kv_heads = config.num_kv_heads;
  limits.max_head_dim = config.head_dim;
  limits.max_intermediate = std::max(config.intermediate_size, config.moe_intermediate_size);
  limits.max_experts = config.num_experts;
  limits.hidden_size = config.hidden_size;
  limits.vocab_size = config.vocab_size;
  for (const LayerSpec& spec : specs) {
    for (const ProjectionSpec* projection : {&spec.key, &spec.value}) {
      for (const int rank : projection->ranks) limits.max_rank = std::max(limits.max_rank, rank);
      limits.max_row_numbers =
          std::max(limits.max_row_numbers, static_cast<int>(RowNumbers(*projection)));
    }
  }
  return limits;
}

Transformer::Transformer(const ModelConfig& config, const Weights& weights,
                         const std::vector<LayerSpec>& specs, const LatentLayout& layout,
                         Backend* backend, int max_tokens, int max_logit_rows, int max_context)
    : config_(config), weights_(weights), backend_(*backend) {
  BuildProjections(specs, layout);
  for (const RopeConfig& rope : config.ropes) {
    const std::vector<float> table = RopeTable(rope, max_context);
    rope_tables_.push_back(Workspace(max_context, rope.rotary_dim, DType::kF32));
    backend_.CopyToDevice(rope_tables_.back().data, table.data(), table.size() * sizeof(float));
  }
  const StepLimits limits = Limits(config, specs);
  const DType activation = backend_.activation_dtype();
  const int64_t q_columns = int64_t{config.num_heads} * config.head_dim;
  hidden_ = Workspace(max_tokens, config.hidden_size, activation);
  normed_ = Workspace(max_tokens, config.hidden_size, activation);
  branch_ = Workspace(max_tokens, config.hidden_size, activation);
  q_ = Workspace(max_tokens, q_columns, activation);
  attention_ = Workspace(max_tokens, q_columns, activation);
  key_ = Workspace(max_tokens, limits.max_row_numbers, activation);
  value_ = Workspace(max_tokens, limits.max_row_numbers, activation);
  gate_ = Workspace(max_tokens, config.intermediate_size, activation);
  up_ = Workspace(max_tokens, config.intermediate_size, activation);
  if (config.num_experts > 0) router_ = Workspace(max_tokens, config.num_experts, DType::kF32);
  logit_rows_ = Workspace(max_logit_rows, config.hidden_size, activation);
}

Tensor Transformer::Workspace(int64_t rows, int64_t columns, DType dtype) {
  const size_t bytes = static_cast<size_t>(rows * columns) * SizeOf(dtype);
  buffers_.push_back(backend_.Allocate(bytes));
  workspace_bytes_ += static_cast<int64_t>(bytes);
  return buffers_.back().View(dtype, {rows, columns});
}

void Transformer::BuildProjections(const std::vector<LayerSpec>& specs,
                                   const LatentLayout& layout) {
  for (size_t i = 0; i < specs.size(); ++i) {
    const LatentLayout::Layer& segments = layout.layers()[i];
    const LayerWeights& weights = weights_.layers[i];
    Layer layer;
    layer.group = static_cast<size_t>(segments.group);
    for (const Tensor& up : weights.key.up) {
      const int rotary_dim = config_.ropes[static_cast<size_t>(config_.layers[i].rope)].rotary_dim;
      Buffer packed = backend_.PackUp(up, specs[i].key.format, config_.head_dim, rotary_dim);
      workspace_bytes_ += static_cast<int64_t>(packed.bytes());
      if (packed.defined()) layer.packed_up.push_back(std::move(packed));
    }
    layer.key = {segments.key, specs[i].key.heads_per_group, weights.key.up, layer.packed_up};
    layer.value = {segments.value, specs[i].value.heads_per_group, weights.value.up, {}};
    layer.rotate_key = specs[i].key.dense && specs[i].key.hadamard;
    layer.rotate_value = specs[i].value.dense && specs[i].value.hadamard;
    layer.key_numbers = RowNumbers(specs[i].key);
    layer.value_numbers = RowNumbers(specs[i].value);
    layers_.push_back(std::move(layer));
  }
}

void Transformer::Forward(const StepInputs& inputs, const LatentPool& pool) {
  tokens_ = inputs.token_ids.dim(0);
  PALU_CHECK(tokens_ > 0 && tokens_ <= hidden_.dim(0));
  backend_.Embedding({.ids = inputs.token_ids,
                      .table = weights_.embedding,
                      .out = hidden_.Rows(0, tokens_),
                      .scale = config_.embedding_scale});
  for (size_t i = 0; i < layers_.size(); ++i) {
    Attention(i, inputs, pool);
    Mlp(i, tokens_);
  }
}

void Transformer::Attention(size_t index, const StepInputs& inputs, const LatentPool& pool) {
  const Layer& layer = layers_[index];
  const LayerWeights& weights = weights_.layers[index];
  const Tensor x = normed_.Rows(0, tokens_);
  const Tensor q = q_.Rows(0, tokens_);
  const Tensor key(key_.data, key_.dtype, {tokens_, layer.key_numbers});
  const Tensor value(value_.data, value_.dtype, {tokens_, layer.value_numbers});
  const Tensor attention = attention_.Rows(0, tokens_);
  const Tensor q_heads = q.SplitLast(config_.num_heads, config_.head_dim);
  const Tensor out_heads = attention.SplitLast(config_.num_heads, config_.head_dim);
  const Tensor no_bias;

  const MatmulArgs products[] = {{.x = x, .weight = weights.q, .bias = weights.q_bias, .out = q},
                                 {.x = x,
                                  .weight = weights.key.down,
                                  .bias = layer.key.dense() ? weights.key.bias : no_bias,
                                  .out = key},
                                 {.x = x,
                                  .weight = weights.value.down,
                                  .bias = layer.value.dense() ? weights.value.bias : no_bias,
                                  .out = value}};
  backend_.NormMatmuls(NormOf(hidden_.Rows(0, tokens_), weights.input_norm, x), products);
  NormAndRotate(index, inputs.positions, q_heads, key);
  if (layer.rotate_value) {
    backend_.Hadamard({.x = value.SplitLast(config_.num_kv_heads, config_.head_dim)});
  }

  const Tensor& slots = inputs.slot_mapping[layer.group];
  backend_.RopeAndWrite(
      {.x = q_heads, .positions = inputs.positions, .cos_sin = RopeTableOf(index)},
      {.x = key, .slot_mapping = slots, .projection = layer.key, .pool = pool},
      {.x = value, .slot_mapping = slots, .projection = layer.value, .pool = pool});
  if (layer.rotate_key) backend_.Hadamard({.x = q_heads});
  Attend(index, inputs, pool, q_heads, out_heads);
  // The rotation of the values is undone on their weighted sum.
  if (layer.rotate_value) backend_.Hadamard({.x = out_heads});
  AddToResidual({.x = attention, .weight = weights.o, .bias = weights.o_bias, .out = {}},
                weights.attention_out_norm);
}

void Transformer::NormAndRotate(size_t index, const Tensor& positions, const Tensor& q_heads,
                                const Tensor& key) {
  const Layer& layer = layers_[index];
  const LayerWeights& weights = weights_.layers[index];
  HeadNorm(q_heads, weights.q_norm);
  if (!layer.key.dense()) return;
  const Tensor key_heads = key.SplitLast(config_.num_kv_heads, config_.head_dim);
  HeadNorm(key_heads, weights.k_norm);
  backend_.Rope({.x = key_heads, .positions = positions, .cos_sin = RopeTableOf(index)});
  if (layer.rotate_key) backend_.Hadamard({.x = key_heads});
}

void Transformer::Attend(size_t index, const StepInputs& inputs, const LatentPool& pool,
                         const Tensor& q_heads, const Tensor& out_heads) {
  const Layer& layer = layers_[index];
  const LayerWeights& weights = weights_.layers[index];
  LatentAttentionArgs args;
  args.q = q_heads;
  args.out = out_heads;
  args.cu_seqlens = inputs.cu_seqlens;
  args.context_lens = inputs.context_lens;
  args.block_tables = inputs.block_tables[layer.group];
  args.host_cu_seqlens = inputs.host_cu_seqlens;
  args.host_context_lens = inputs.host_context_lens;
  args.pool = pool;
  args.key = layer.key;
  args.value = layer.value;
  if (!layer.key.dense()) {
    args.key_bias = weights.key.bias;
    args.k_norm = weights.k_norm;
    args.k_norm_eps = config_.rms_norm_eps;
    args.k_norm_offset = config_.rms_norm_offset;
    args.cos_sin = RopeTableOf(index);
  }
  if (!layer.value.dense()) args.value_bias = weights.value.bias;
  args.kv_heads = config_.num_kv_heads;
  args.scale = config_.attention_scale;
  args.window = config_.layers[index].window;
  backend_.LatentAttention(args);
}

void Transformer::Mlp(size_t index, int64_t tokens) {
  const LayerWeights& weights = weights_.layers[index];
  const Tensor hidden = hidden_.Rows(0, tokens);
  const Tensor x = normed_.Rows(0, tokens);
  if (config_.layers[index].moe) {
    Norm(hidden, weights.mlp_norm, x);
    const Tensor router = router_.Rows(0, tokens);
    const Tensor branch = branch_.Rows(0, tokens);
    backend_.Matmul({.x = x, .weight = weights.router, .bias = {}, .out = router});
    backend_.Moe({.x = x,
                  .router_logits = router,
                  .weights = {weights.expert_gate, weights.expert_up, weights.expert_down},
                  .out = branch,
                  .top_k = config_.experts_per_token,
                  .normalize = config_.normalize_expert_weights,
                  .activation = config_.activation});
    backend_.Add({.x = hidden, .y = branch});
    return;
  }
  const Tensor gate = gate_.Rows(0, tokens);
  const Tensor up = up_.Rows(0, tokens);
  backend_.NormGatedMatmul(
      NormOf(hidden, weights.mlp_norm, x),
      {.gate = {.x = x, .weight = weights.gate, .bias = weights.gate_bias, .out = gate},
       .up = {.x = x, .weight = weights.up, .bias = weights.up_bias, .out = up},
       .activation = config_.activation});
  AddToResidual({.x = gate, .weight = weights.down, .bias = weights.down_bias, .out = {}},
                weights.mlp_out_norm);
}

void Transformer::AddToResidual(MatmulArgs product, const Tensor& norm) {
  const Tensor hidden = hidden_.Rows(0, tokens_);
  if (!norm.defined()) {
    product.out = hidden;
    product.accumulate = true;
    backend_.Matmul(product);
    return;
  }
  const Tensor branch = branch_.Rows(0, tokens_);
  product.out = branch;
  backend_.Matmul(product);
  Norm(branch, norm, branch);
  backend_.Add({.x = hidden, .y = branch});
}

void Transformer::Logits(const Tensor& rows, const Tensor& logits) {
  const Tensor x = LastHidden(rows);
  const MatmulArgs product{.x = x, .weight = weights_.lm_head, .bias = {}, .out = logits};
  backend_.NormMatmuls(NormOf(x, weights_.final_norm, x), {&product, 1});
}

Tensor Transformer::FinalHidden(const Tensor& rows) {
  const Tensor x = LastHidden(rows);
  Norm(x, weights_.final_norm, x);
  return x;
}

Tensor Transformer::LastHidden(const Tensor& rows) {
  const Tensor x = logit_rows_.Rows(0, rows.dim(0));
  backend_.GatherRows({.x = hidden_.Rows(0, tokens_), .rows = rows, .out = x});
  return x;
}

RmsNormArgs Transformer::NormOf(const Tensor& x, const Tensor& weight, const Tensor& out) const {
  return {.x = x,
          .weight = weight,
          .out = out,
          .eps = config_.rms_norm_eps,
          .weight_offset = config_.rms_norm_offset};
}

void Transformer::Norm(const Tensor& x, const Tensor& weight, const Tensor& out) {
  backend_.RmsNorm(NormOf(x, weight, out));
}

const Tensor& Transformer::RopeTableOf(size_t index) const {
  return rope_tables_[static_cast<size_t>(config_.layers[index].rope)];
}

void Transformer::HeadNorm(const Tensor& heads, const Tensor& weight) {
  if (weight.defined()) Norm(heads, weight, heads);
}

}  // namespace palu
