#include "tools/compress/checkpoint_model.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "engine/model/rope.h"
#include "engine/status.h"
#include "tools/compress/parallel.h"

namespace palu {
namespace {

std::string Prefix(int layer) { return "model.layers." + std::to_string(layer) + "."; }

constexpr Eigen::Index kConvertedAtOnce = 1 << 22;

// Returns whether all numbers are finite.
template <typename T>
bool Convert(std::span<const std::byte> bytes, MatrixF* out) {
  const Eigen::Index size = out->size();
  const auto pieces = static_cast<size_t>((size + kConvertedAtOnce - 1) / kConvertedAtOnce);
  std::atomic<bool> finite = true;
  ParallelFor(pieces, [&](size_t piece) {
    const auto begin = static_cast<Eigen::Index>(piece) * kConvertedAtOnce;
    const Eigen::Index count = std::min(kConvertedAtOnce, size - begin);
    for (Eigen::Index i = begin; i < begin + count; ++i) {
      T value;
      std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
      out->data()[i] = static_cast<float>(value);
    }
    const Eigen::Map<const VectorF> done(out->data() + begin, count);
    if (!done.allFinite()) finite = false;
  });
  return finite;
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

F32Mlp ReadMlp(const Safetensors& files, const ModelConfig& c, const std::string& p) {
  const int64_t width = c.intermediate_size;
  F32Mlp w;
  if (c.fused_gate_up) {
    const MatrixF both = ReadMatrix(files, p + "gate_up_proj.weight", 2 * width, c.hidden_size);
    w.gate = both.topRows(width);
    w.up = both.bottomRows(width);
  } else {
    w.gate = ReadMatrix(files, p + "gate_proj.weight", width, c.hidden_size);
    w.up = ReadMatrix(files, p + "up_proj.weight", width, c.hidden_size);
  }
  w.down = ReadMatrix(files, p + "down_proj.weight", c.hidden_size, width);
  w.gate_bias = ReadOptionalVector(files, p + "gate_proj.bias", width);
  w.up_bias = ReadOptionalVector(files, p + "up_proj.bias", width);
  w.down_bias = ReadOptionalVector(files, p + "down_proj.bias", c.hidden_size);
  return w;
}

// Mixtral's names or Qwen's.
void ReadExperts(const Safetensors& files, const ModelConfig& c, int layer, F32LayerWeights* w) {
  const std::string mixtral = Prefix(layer) + "block_sparse_moe.";
  const bool is_mixtral = files.Find(mixtral + "gate.weight") != nullptr;
  const std::string p = is_mixtral ? mixtral : Prefix(layer) + "mlp.";
  w->router = ReadMatrix(files, p + "gate.weight", c.num_experts, c.hidden_size);
  for (int e = 0; e < c.num_experts; ++e) {
    const std::string name = p + "experts." + std::to_string(e) + ".";
    const auto read = [&](const char* theirs, const char* qwens, int64_t rows, int64_t cols) {
      return ReadMatrix(files, name + (is_mixtral ? theirs : qwens) + ".weight", rows, cols);
    };
    const int64_t width = c.moe_intermediate_size;
    F32Mlp& expert = w->experts.emplace_back();
    expert.gate = read("w1", "gate_proj", width, c.hidden_size);
    expert.down = read("w2", "down_proj", c.hidden_size, width);
    expert.up = read("w3", "up_proj", width, c.hidden_size);
  }
}

int64_t NumbersOf(const F32Mlp& w) { return w.gate.size() + w.up.size() + w.down.size(); }

int64_t BytesOf(const F32LayerWeights& w) {
  int64_t numbers = w.q.size() + w.k.size() + w.v.size() + w.o.size() + NumbersOf(w.mlp);
  for (const F32Mlp& expert : w.experts) numbers += NumbersOf(expert);
  return static_cast<int64_t>(sizeof(float)) * numbers;
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
  bool finite = true;
  if (entry->dtype == "BF16") {
    finite = Convert<Eigen::bfloat16>(entry->data, &m);
  } else if (entry->dtype == "F16") {
    finite = Convert<Eigen::half>(entry->data, &m);
  } else if (entry->dtype == "F32") {
    finite = Convert<float>(entry->data, &m);
  } else {
    throw LoadError(entry->file + ": " + name + ": dtype " + entry->dtype +
                    ", expected BF16, F16 or F32");
  }
  if (!finite) {
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

uint64_t Fingerprint(const Safetensors& files) {
  constexpr size_t kSample = 256;
  uint64_t hash = 1469598103934665603ull;  // FNV-1a
  const auto add = [&](std::span<const std::byte> bytes) {
    for (const std::byte b : bytes) hash = (hash ^ static_cast<uint64_t>(b)) * 1099511628211ull;
  };
  for (const auto& [name, entry] : files.entries()) {
    add(std::as_bytes(std::span(name)));
    add(std::as_bytes(std::span(entry.shape)));
    const size_t size = entry.data.size(), sample = std::min(kSample, size);
    add(entry.data.first(sample));
    add(entry.data.subspan((size - sample) / 2, sample));
    add(entry.data.last(sample));
  }
  return hash;
}

CheckpointModel::CheckpointModel(const std::string& directory, int positions, int64_t keep_bytes)
    : files_(Safetensors::OpenDirectory(directory)), keep_bytes_(keep_bytes) {
  config_ = ModelConfig::Load(directory);
  const ModelConfig& c = config_;
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
  if (c.layers[layer].moe) {
    ReadExperts(files_, c, layer, &w);
  } else {
    w.mlp = ReadMlp(files_, c, p + "mlp.");
  }
  return w;
}

}  // namespace palu
