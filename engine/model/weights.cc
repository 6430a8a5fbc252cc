#include "engine/model/weights.h"

#include <algorithm>
#include <optional>

#include "engine/model/host_floats.h"
#include "engine/model/packed_weights.h"
#include "engine/status.h"
#include "kernels/grouped_weight.h"

namespace palu {
namespace {

DType PackedDType(WeightFormat format) {
  return format == WeightFormat::kInt4 ? DType::kInt4Groups : DType::kInt8Groups;
}

Tensor View(const void* data, DType dtype, const std::vector<int64_t>& shape) {
  auto* mutable_data = const_cast<void*>(data);
  return shape.size() == 1 ? Tensor(mutable_data, dtype, {shape[0]})
                           : Tensor(mutable_data, dtype, {shape[0], shape[1]});
}

}  // namespace

// Builds a Weights; lives only during Load.
class WeightsLoader {
 public:
  WeightsLoader(Weights* weights, const ModelConfig& config, WeightFormat format, Backend* backend)
      : weights_(*weights), config_(config), format_(format), backend_(*backend) {
    for (const char* prefix : {"model.", "language_model.model.", "model.language_model."}) {
      if (Has(std::string(prefix) + "embed_tokens.weight")) prefix_ = prefix;
    }
  }

  void LoadAll(const std::vector<LayerSpec>& specs) {
    const int64_t hidden = config_.hidden_size, vocab = config_.vocab_size;
    weights_.embedding = Load(prefix_ + "embed_tokens.weight", {vocab, hidden});
    weights_.final_norm = Load(prefix_ + "norm.weight", {hidden});
    weights_.lm_head = LoadOutput({vocab, hidden});
    for (int i = 0; i < config_.num_layers; ++i) {
      const std::string name = prefix_ + "layers." + std::to_string(i) + ".";
      LayerWeights layer;
      LoadNorms(name, &layer);
      LoadAttention(name + "self_attn.", specs[static_cast<size_t>(i)], &layer);
      if (config_.layers[static_cast<size_t>(i)].moe) {
        LoadExperts(name, &layer);
      } else {
        LoadMlp(name + "mlp.", &layer);
      }
      weights_.layers.push_back(std::move(layer));
    }
    if (format_ != WeightFormat::kStored) Quantize();
  }

 private:
  using Shape = std::vector<int64_t>;

  void Quantize() {
    for (LayerWeights& layer : weights_.layers) {
      for (Tensor* matrix : {&layer.q, &layer.key.down, &layer.value.down, &layer.o, &layer.gate,
                             &layer.up, &layer.down}) {
        Quantize(format_, matrix);
      }
      for (std::vector<Tensor>* experts :
           {&layer.expert_gate, &layer.expert_up, &layer.expert_down}) {
        for (Tensor& matrix : *experts) Quantize(format_, &matrix);
      }
    }
    // A tied one remains as the embedding.
    const Tensor stored = weights_.lm_head;
    Quantize(kOutputWeightFormat, &weights_.lm_head);
    if (config_.tie_word_embeddings && IsGrouped(weights_.lm_head.dtype)) {
      weights_.bytes_ += BytesOf(stored);
    }
  }

  static int64_t BytesOf(const Tensor& matrix) {
    return matrix.num_elements() * static_cast<int64_t>(SizeOf(matrix.dtype));
  }

  // Replaces a matrix by its rounded form, where there is one for its shape and the checkpoint does
  // not hold it already.
  void Quantize(WeightFormat format, Tensor* matrix) {
    if (!matrix->defined() || IsGrouped(matrix->dtype)) return;
    Buffer packed = backend_.PackWeight(*matrix, format);
    if (!packed.defined()) return;
    const int64_t bytes = BytesOf(*matrix);
    weights_.bytes_ += static_cast<int64_t>(packed.bytes()) - bytes;
    const void* stored = matrix->data;
    *matrix = packed.View(PackedDType(format), {matrix->dim(0), matrix->dim(1)});
    // Read once, to be rounded; a tied embedding's pages come back as they are used.
    weights_.files_.Release({static_cast<const std::byte*>(stored), static_cast<size_t>(bytes)});
    // A part of a larger buffer, or a tied embedding, is still in use.
    std::erase_if(weights_.buffers_, [&](const Buffer& b) {
      return b.data() == stored && static_cast<int64_t>(b.bytes()) == bytes &&
             stored != weights_.embedding.data;
    });
    weights_.buffers_.push_back(std::move(packed));
  }

  bool Has(const std::string& name) const { return weights_.files_.Find(name) != nullptr; }

  const SafetensorsEntry& Require(const std::string& name, const Shape& shape) const {
    const SafetensorsEntry* entry = weights_.files_.Find(name);
    if (entry == nullptr) {
      throw LoadError(weights_.files_.path() + ": tensor \"" + name +
                      "\": found nothing, expected " + ShapeString(shape));
    }
    const std::string where = entry->file + ": tensor \"" + name + "\": ";
    if (entry->shape != shape) {
      throw LoadError(where + "found shape " + ShapeString(entry->shape) + ", expected " +
                      ShapeString(shape));
    }
    if (!FloatDType(entry->dtype)) {
      throw LoadError(where + "found dtype " + entry->dtype + ", expected F32, BF16 or F16");
    }
    return *entry;
  }

  // Matrices take the type of a device's activations, so that its tensor cores serve them all.
  DType StoredAs(DType file, const Shape& shape) const {
    const bool convert =
        !backend_.host_memory() && shape.size() == 2 && backend_.activation_dtype() == DType::kBF16;
    return convert ? DType::kBF16 : file;
  }

  // A tensor on the backend: the mapped bytes themselves where it can read them.
  Tensor Load(const std::string& name, const Shape& shape) {
    const SafetensorsEntry& entry = Require(name, shape);
    const DType dtype = *FloatDType(entry.dtype), stored = StoredAs(dtype, shape);
    if (stored != dtype) {
      return Upload(FromFloats(ToFloats(entry.data, dtype), stored), stored, shape);
    }
    const bool aligned = reinterpret_cast<uintptr_t>(entry.data.data()) % SizeOf(dtype) == 0;
    if (!backend_.host_memory() || !aligned) {
      const Tensor copy = Upload(entry.data, dtype, shape);
      weights_.files_.Release(entry.data);
      return copy;
    }
    weights_.bytes_ += static_cast<int64_t>(entry.data.size());
    return View(entry.data.data(), dtype, shape);
  }

  // A matrix that the file may hold as codes.
  Tensor LoadMatrix(const std::string& name, const Shape& shape, WeightFormat format) {
    const SafetensorsEntry* codes = FindPacked(weights_.files_, name, format, shape[0], shape[1]);
    if (codes == nullptr) return Load(name, shape);
    const auto address = reinterpret_cast<uintptr_t>(codes->data.data());
    if (!backend_.host_memory() || address % kWeightAlignment != 0) {
      return Upload(codes->data, PackedDType(format), shape);
    }
    weights_.bytes_ += static_cast<int64_t>(codes->data.size());
    return View(codes->data.data(), PackedDType(format), shape);
  }

  Tensor LoadMatrix(const std::string& name, const Shape& shape) {
    return LoadMatrix(name, shape, format_);
  }

  Tensor LoadOutput(const Shape& shape) {
    const std::string plain = "lm_head.weight", nested = "language_model.lm_head.weight";
    const auto has = [&](const std::string& name) {
      return Has(name) || Has(PackedName(name, WeightFormat::kInt8)) ||
             Has(PackedName(name, WeightFormat::kInt4));
    };
    const std::string& name = has(nested) ? nested : plain;
    if (!config_.tie_word_embeddings) return LoadMatrix(name, shape, kOutputWeightFormat);
    // A tied one is there only as codes.
    if (Has(name) || !has(name)) return weights_.embedding;
    return LoadMatrix(name, shape, kOutputWeightFormat);
  }

  Tensor Upload(std::span<const std::byte> bytes, DType dtype, const Shape& shape) {
    Buffer buffer = backend_.Allocate(bytes.size());
    backend_.CopyToDevice(buffer.data(), bytes.data(), bytes.size());
    weights_.bytes_ += static_cast<int64_t>(bytes.size());
    weights_.buffers_.push_back(std::move(buffer));
    return View(weights_.buffers_.back().data(), dtype, shape);
  }

  Tensor LoadIf(bool wanted, const std::string& name, const Shape& shape) {
    return wanted ? Load(name, shape) : Tensor();
  }

  void LoadNorms(const std::string& name, LayerWeights* layer) {
    const Shape shape = {config_.hidden_size};
    layer->input_norm = Load(name + "input_layernorm.weight", shape);
    if (config_.sandwich_norms) {
      layer->attention_out_norm = Load(name + "post_attention_layernorm.weight", shape);
      layer->mlp_norm = Load(name + "pre_feedforward_layernorm.weight", shape);
      layer->mlp_out_norm = Load(name + "post_feedforward_layernorm.weight", shape);
    } else {
      layer->mlp_norm = Load(name + "post_attention_layernorm.weight", shape);
    }
  }

  void LoadAttention(const std::string& name, const LayerSpec& spec, LayerWeights* layer) {
    const int64_t hidden = config_.hidden_size, head_dim = config_.head_dim;
    const int64_t q_rows = config_.num_heads * head_dim;
    const int64_t kv_rows = config_.num_kv_heads * head_dim;
    Tensor dense_key, dense_value;
    if (config_.fused_qkv && Has(name + "qkv_proj.weight")) {
      const Tensor fused = Load(name + "qkv_proj.weight", {q_rows + 2 * kv_rows, hidden});
      layer->q = fused.Rows(0, q_rows);
      dense_key = fused.Rows(q_rows, kv_rows);
      dense_value = fused.Rows(q_rows + kv_rows, kv_rows);
    } else {
      layer->q = LoadMatrix(name + "q_proj.weight", {q_rows, hidden});
    }
    layer->q_bias = LoadIf(config_.qkv_bias, name + "q_proj.bias", {q_rows});
    layer->q_norm = LoadIf(config_.qk_norm, name + "q_norm.weight", {head_dim});
    layer->k_norm = LoadIf(config_.qk_norm, name + "k_norm.weight", {head_dim});
    layer->o = LoadMatrix(name + "o_proj.weight", {hidden, q_rows});
    layer->o_bias = LoadIf(config_.output_bias, name + "o_proj.bias", {hidden});
    LoadProjection(name + "k_proj.", spec.key, dense_key, &layer->key);
    LoadProjection(name + "v_proj.", spec.value, dense_value, &layer->value);
  }

  // fused: the dense weights when they came as a part of another tensor.
  void LoadProjection(const std::string& name, const ProjectionSpec& spec, const Tensor& fused,
                      ProjectionWeights* projection) {
    const int64_t kv_rows = int64_t{config_.num_kv_heads} * config_.head_dim;
    if (spec.dense) {
      projection->down =
          fused.defined() ? fused : LoadMatrix(name + "weight", {kv_rows, config_.hidden_size});
      projection->bias = LoadIf(config_.qkv_bias, name + "bias", {kv_rows});
      return;
    }
    const bool group_bias = Has(name + "U.0.bias");
    if (group_bias && Has(name + "bias")) {
      throw LoadError(weights_.files_.path() + ": found both \"" + name + "bias\" and \"" + name +
                      "U.0.bias\", expected one of them");
    }
    LoadFactors(name, spec, projection);
    if (group_bias) {
      projection->bias = JoinBiases(name, spec);
    } else {
      projection->bias = LoadIf(config_.qkv_bias, name + "bias", {kv_rows});
    }
  }

  void LoadFactors(const std::string& name, const ProjectionSpec& spec,
                   ProjectionWeights* projection) {
    int64_t rows = 0;
    for (const int rank : spec.ranks) rows += rank;
    const std::string down_name = name + "VT.weight";
    const Shape down_shape = {rows, config_.hidden_size};
    if (spec.hadamard) {
      projection->down = LoadRotatedDown(down_name, down_shape, spec);
    } else {
      projection->down = LoadMatrix(down_name, down_shape);
    }
    for (size_t g = 0; g < spec.ranks.size(); ++g) {
      const std::string up_name = name + "U." + std::to_string(g) + ".weight";
      const Shape shape = {int64_t{spec.heads_per_group} * config_.head_dim, spec.ranks[g]};
      projection->up.push_back(spec.hadamard ? LoadRotatedUp(up_name, shape)
                                             : Load(up_name, shape));
    }
  }

  // VT ← Q VT, per group of rows.
  Tensor LoadRotatedDown(const std::string& name, const Shape& shape, const ProjectionSpec& spec) {
    const SafetensorsEntry* codes = FindPacked(weights_.files_, name, format_, shape[0], shape[1]);
    if (codes != nullptr) {
      throw LoadError(codes->file + ": tensor \"" + PackedName(name, format_) +
                      "\": found codes, expected \"" + name +
                      "\": this projection is to be rotated at load");
    }
    const SafetensorsEntry& entry = Require(name, shape);
    const DType dtype = *FloatDType(entry.dtype);
    std::vector<float> numbers = ToFloats(entry.data, dtype);
    const auto columns = static_cast<size_t>(shape[1]);
    float* group = numbers.data();
    for (const int rank : spec.ranks) {
      for (size_t c = 0; c < columns; ++c) HadamardInPlace(group + c, rank, columns);
      group += static_cast<size_t>(rank) * columns;
    }
    const DType stored = StoredAs(dtype, shape);
    return Upload(FromFloats(numbers, stored), stored, shape);
  }

  // U ← U Q^T.
  Tensor LoadRotatedUp(const std::string& name, const Shape& shape) {
    const SafetensorsEntry& entry = Require(name, shape);
    const DType dtype = *FloatDType(entry.dtype);
    std::vector<float> numbers = ToFloats(entry.data, dtype);
    const auto rank = static_cast<size_t>(shape[1]);
    for (size_t row = 0; row < static_cast<size_t>(shape[0]); ++row) {
      HadamardInPlace(numbers.data() + row * rank, static_cast<int>(rank), 1);
    }
    const DType stored = StoredAs(dtype, shape);
    return Upload(FromFloats(numbers, stored), stored, shape);
  }

  // The authors' layout has one bias per group; the kernels want one vector.
  Tensor JoinBiases(const std::string& name, const ProjectionSpec& spec) {
    std::vector<float> joined;
    for (size_t g = 0; g < spec.ranks.size(); ++g) {
      const SafetensorsEntry& entry = Require(name + "U." + std::to_string(g) + ".bias",
                                              {int64_t{spec.heads_per_group} * config_.head_dim});
      const std::vector<float> part = ToFloats(entry.data, *FloatDType(entry.dtype));
      joined.insert(joined.end(), part.begin(), part.end());
    }
    return Upload(std::as_bytes(std::span(joined)), DType::kF32,
                  {static_cast<int64_t>(joined.size())});
  }

  void LoadMlp(const std::string& name, LayerWeights* layer) {
    const int64_t hidden = config_.hidden_size, width = config_.intermediate_size;
    if (config_.fused_gate_up && Has(name + "gate_up_proj.weight")) {
      const Tensor fused = Load(name + "gate_up_proj.weight", {2 * width, hidden});
      layer->gate = fused.Rows(0, width);
      layer->up = fused.Rows(width, width);
    } else {
      layer->gate = LoadMatrix(name + "gate_proj.weight", {width, hidden});
      layer->up = LoadMatrix(name + "up_proj.weight", {width, hidden});
    }
    layer->down = LoadMatrix(name + "down_proj.weight", {hidden, width});
    layer->gate_bias = LoadIf(config_.mlp_bias, name + "gate_proj.bias", {width});
    layer->up_bias = LoadIf(config_.mlp_bias, name + "up_proj.bias", {width});
    layer->down_bias = LoadIf(config_.mlp_bias, name + "down_proj.bias", {hidden});
  }

  // Mixtral's names or Qwen3-MoE's.
  void LoadExperts(const std::string& layer_name, LayerWeights* layer) {
    const int64_t hidden = config_.hidden_size, width = config_.moe_intermediate_size;
    const bool mixtral = Has(layer_name + "block_sparse_moe.gate.weight");
    const std::string name = layer_name + (mixtral ? "block_sparse_moe." : "mlp.");
    layer->router = Load(name + "gate.weight", {config_.num_experts, hidden});
    for (int e = 0; e < config_.num_experts; ++e) {
      const std::string expert = name + "experts." + std::to_string(e) + ".";
      const auto load = [&](const char* theirs, const char* ours, const Shape& shape) {
        return LoadMatrix(expert + (mixtral ? theirs : ours) + ".weight", shape);
      };
      layer->expert_gate.push_back(load("w1", "gate_proj", {width, hidden}));
      layer->expert_up.push_back(load("w3", "up_proj", {width, hidden}));
      layer->expert_down.push_back(load("w2", "down_proj", {hidden, width}));
    }
  }

  Weights& weights_;
  const ModelConfig& config_;
  const WeightFormat format_;
  Backend& backend_;
  std::string prefix_ = "model.";
};

std::unique_ptr<Weights> Weights::Load(Safetensors files, const ModelConfig& config,
                                       const std::vector<LayerSpec>& specs,
                                       std::optional<WeightFormat> format, Backend* backend) {
  const WeightFormat held = PackedFormat(files);
  if (format && held != WeightFormat::kStored && held != *format) {
    throw LoadError(std::string("model.weights: found ") + Name(*format) + ", expected auto or " +
                    Name(held) + ", the codes that " + files.path() + " holds");
  }
  const WeightFormat wanted = format.value_or(held);
  if (!backend->HasWeightFormat(wanted)) {
    throw LoadError(std::string("model.weights: found ") + Name(wanted) +
                    (format ? "" : " codes in " + files.path()) + ", expected bf16 on " +
                    backend->name() + ", which has no kernels for quantized weights");
  }
  std::unique_ptr<Weights> weights(new Weights(std::move(files)));
  WeightsLoader(weights.get(), config, wanted, backend).LoadAll(specs);
  return weights;
}

}  // namespace palu
