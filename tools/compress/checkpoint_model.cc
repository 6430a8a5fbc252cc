#include "tools/compress/checkpoint_model.h"

#include <cstring>

#include "engine/model/rope.h"
#include "engine/status.h"

namespace palu {
namespace {

std::string Prefix(int layer) { return "model.layers." + std::to_string(layer) + "."; }

template <typename T>
void Convert(std::span<const std::byte> bytes, MatrixF* out) {
  for (Eigen::Index i = 0; i < out->size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    out->data()[i] = static_cast<float>(value);
  }
}

VectorF ReadVector(const Safetensors& files, const std::string& name, int64_t size) {
  return ReadMatrix(files, name, size, 0).col(0);
}

VectorF ReadOptionalVector(const Safetensors& files, const std::string& name, int64_t size) {
  return files.Find(name) == nullptr ? VectorF() : ReadVector(files, name, size);
}

void ReadAttention(const Safetensors& files, const ModelConfig& c, int layer, F32LayerWeights* w) {
  const std::string p = Prefix(layer) + "self_attn.";
  const int64_t q_rows = int64_t{c.num_heads} * c.head_dim;
  const int64_t kv_rows = int64_t{c.num_kv_heads} * c.head_dim;
  KeyValueWeights kv = ReadKeyValue(files, c, layer);
  w->k = std::move(kv.k);
  w->v = std::move(kv.v);
  if (c.fused_qkv) {
    w->q = ReadMatrix(files, p + "qkv_proj.weight", q_rows + 2 * kv_rows, c.hidden_size)
               .topRows(q_rows);
  } else {
    w->q = ReadMatrix(files, p + "q_proj.weight", q_rows, c.hidden_size);
    w->q_bias = ReadOptionalVector(files, p + "q_proj.bias", q_rows);
    w->k_bias = ReadOptionalVector(files, p + "k_proj.bias", kv_rows);
    w->v_bias = ReadOptionalVector(files, p + "v_proj.bias", kv_rows);
  }
  w->o = ReadMatrix(files, p + "o_proj.weight", c.hidden_size, q_rows);
  w->o_bias = ReadOptionalVector(files, p + "o_proj.bias", c.hidden_size);
  if (c.qk_norm) {
    w->q_norm = ReadVector(files, p + "q_norm.weight", c.head_dim);
    w->k_norm = ReadVector(files, p + "k_norm.weight", c.head_dim);
  }
}

void ReadMlp(const Safetensors& files, const ModelConfig& c, int layer, F32LayerWeights* w) {
  const std::string p = Prefix(layer) + "mlp.";
  const int64_t width = c.intermediate_size;
  if (c.fused_gate_up) {
    const MatrixF both = ReadMatrix(files, p + "gate_up_proj.weight", 2 * width, c.hidden_size);
    w->gate = both.topRows(width);
    w->up = both.bottomRows(width);
  } else {
    w->gate = ReadMatrix(files, p + "gate_proj.weight", width, c.hidden_size);
    w->up = ReadMatrix(files, p + "up_proj.weight", width, c.hidden_size);
  }
  w->down = ReadMatrix(files, p + "down_proj.weight", c.hidden_size, width);
  w->gate_bias = ReadOptionalVector(files, p + "gate_proj.bias", width);
  w->up_bias = ReadOptionalVector(files, p + "up_proj.bias", width);
  w->down_bias = ReadOptionalVector(files, p + "down_proj.bias", c.hidden_size);
}

int64_t BytesOf(const F32LayerWeights& w) {
  return static_cast<int64_t>(sizeof(float)) * (w.q.size() + w.k.size() + w.v.size() + w.o.size() +
                                                w.gate.size() + w.up.size() + w.down.size());
}

}  // namespace

MatrixF ReadMatrix(const Safetensors& files, const std::string& name, int64_t rows, int64_t cols) {
  const SafetensorsEntry* entry = files.Find(name);
  if (entry == nullptr) throw LoadError(files.path() + ": " + name + ": not there");
  std::vector<int64_t> expected{rows};
  if (cols > 0) expected.push_back(cols);
  if (entry->shape != expected) {
    throw LoadError(entry->file + ": " + name + ": shape " + ShapeString(entry->shape) +
                    ", expected " + ShapeString(expected));
  }
  MatrixF m(rows, cols > 0 ? cols : 1);
  if (entry->dtype == "BF16") {
    Convert<Eigen::bfloat16>(entry->data, &m);
  } else if (entry->dtype == "F16") {
    Convert<Eigen::half>(entry->data, &m);
  } else if (entry->dtype == "F32") {
    Convert<float>(entry->data, &m);
  } else {
    throw LoadError(entry->file + ": " + name + ": dtype " + entry->dtype +
                    ", expected BF16, F16 or F32");
  }
  if (!m.allFinite()) {
    throw CompressError(entry->file + ": " + name + ": not finite (NaN or infinity)");
  }
  return m;
}

KeyValueWeights ReadKeyValue(const Safetensors& files, const ModelConfig& c, int layer) {
  const std::string p = Prefix(layer) + "self_attn.";
  const int64_t q_rows = int64_t{c.num_heads} * c.head_dim;
  const int64_t kv_rows = int64_t{c.num_kv_heads} * c.head_dim;
  if (c.fused_qkv) {
    const MatrixF all =
        ReadMatrix(files, p + "qkv_proj.weight", q_rows + 2 * kv_rows, c.hidden_size);
    return {all.middleRows(q_rows, kv_rows), all.bottomRows(kv_rows)};
  }
  return {ReadMatrix(files, p + "k_proj.weight", kv_rows, c.hidden_size),
          ReadMatrix(files, p + "v_proj.weight", kv_rows, c.hidden_size)};
}

CheckpointModel::CheckpointModel(const std::string& directory, int positions, int64_t keep_bytes)
    : files_(Safetensors::OpenDirectory(directory)), keep_bytes_(keep_bytes) {
  config_ = ModelConfig::Load(directory);
  const ModelConfig& c = config_;
  for (const LayerConfig& layer : c.layers) {
    if (layer.moe) {
      throw CompressError(directory + "/config.json: model_type " + c.model_type +
                          ": mixture-of-experts layers cannot be calibrated, expected a dense MLP");
    }
  }
  kept_.resize(c.num_layers);
  embedding_ = ReadMatrix(files_, "model.embed_tokens.weight", c.vocab_size, c.hidden_size);
  final_norm_ = ReadVector(files_, "model.norm.weight", c.hidden_size);
  if (!c.tie_word_embeddings) {
    head_ = ReadMatrix(files_, "lm_head.weight", c.vocab_size, c.hidden_size);
  }
  for (const RopeConfig& rope : c.ropes) {
    const std::vector<float> table = RopeTable(rope, positions);
    cos_sin_.push_back(Eigen::Map<const MatrixF>(table.data(), positions, rope.rotary_dim));
  }
}

const F32LayerWeights& CheckpointModel::Layer(int layer) {
  if (kept_[layer]) return *kept_[layer];
  if (current_ == layer) return streamed_;
  F32LayerWeights weights = Read(layer);
  const int64_t bytes = BytesOf(weights);
  if (kept_bytes_ + bytes <= keep_bytes_) {
    kept_bytes_ += bytes;
    kept_[layer] = std::make_unique<F32LayerWeights>(std::move(weights));
    return *kept_[layer];
  }
  streamed_ = std::move(weights);
  current_ = layer;
  return streamed_;
}

F32LayerWeights CheckpointModel::Read(int layer) const {
  const ModelConfig& c = config_;
  const std::string p = Prefix(layer);
  F32LayerWeights w;
  w.input_norm = ReadVector(files_, p + "input_layernorm.weight", c.hidden_size);
  if (c.sandwich_norms) {
    w.attention_out_norm = ReadVector(files_, p + "post_attention_layernorm.weight", c.hidden_size);
    w.mlp_norm = ReadVector(files_, p + "pre_feedforward_layernorm.weight", c.hidden_size);
    w.mlp_out_norm = ReadVector(files_, p + "post_feedforward_layernorm.weight", c.hidden_size);
  } else {
    w.mlp_norm = ReadVector(files_, p + "post_attention_layernorm.weight", c.hidden_size);
  }
  ReadAttention(files_, c, layer, &w);
  ReadMlp(files_, c, layer, &w);
  return w;
}

}  // namespace palu
