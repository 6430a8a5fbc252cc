#include "engine/model/dummy_checkpoint.h"

#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <new>
#include <numeric>
#include <utility>

#include "engine/status.h"

namespace palu {
namespace {

using Shape = std::vector<int64_t>;

constexpr uint16_t kOneBF16 = 0x3f80;
constexpr size_t kAlignment = 64;

int64_t Bytes(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{2}, std::multiplies<>());
}

// Names and shapes in Hugging Face's words, as engine/model/weights.cc reads them.
class TensorList {
 public:
  TensorList(const ModelConfig& config, const std::vector<LayerPlan>& plan)
      : config_(config), hidden_(config.hidden_size) {
    Add("model.embed_tokens.weight", {config.vocab_size, hidden_});
    Add("model.norm.weight", {hidden_});
    if (!config.tie_word_embeddings) Add("lm_head.weight", {config.vocab_size, hidden_});
    for (int i = 0; i < config.num_layers; ++i) {
      prefix_ = "model.layers." + std::to_string(i) + ".";
      AddNorms();
      AddAttention(plan[static_cast<size_t>(i)]);
      if (config.layers[static_cast<size_t>(i)].moe) {
        AddExperts();
      } else {
        AddMlp("mlp.", config.intermediate_size);
      }
    }
  }

  const std::vector<std::pair<std::string, Shape>>& tensors() const { return tensors_; }

 private:
  void Add(const std::string& name, const Shape& shape) {
    tensors_.emplace_back(prefix_ + name, shape);
  }

  void AddNorms() {
    Add("input_layernorm.weight", {hidden_});
    Add("post_attention_layernorm.weight", {hidden_});
    if (!config_.sandwich_norms) return;
    Add("pre_feedforward_layernorm.weight", {hidden_});
    Add("post_feedforward_layernorm.weight", {hidden_});
  }

  void AddAttention(const LayerPlan& plan) {
    const int64_t head_dim = config_.head_dim, q_rows = config_.num_heads * head_dim;
    Add("self_attn.q_proj.weight", {q_rows, hidden_});
    Add("self_attn.o_proj.weight", {hidden_, q_rows});
    if (config_.qkv_bias) Add("self_attn.q_proj.bias", {q_rows});
    if (config_.output_bias) Add("self_attn.o_proj.bias", {hidden_});
    if (config_.qk_norm) {
      Add("self_attn.q_norm.weight", {head_dim});
      Add("self_attn.k_norm.weight", {head_dim});
    }
    AddProjection("self_attn.k_proj.", plan.key);
    AddProjection("self_attn.v_proj.", plan.value);
  }

  void AddProjection(const std::string& name, const ProjectionPlan& plan) {
    const int64_t rows = int64_t{config_.num_kv_heads} * config_.head_dim;
    if (config_.qkv_bias) Add(name + "bias", {rows});
    if (plan.dense) {
      Add(name + "weight", {rows, hidden_});
      return;
    }
    Add(name + "VT.weight", {std::accumulate(plan.ranks.begin(), plan.ranks.end(), 0), hidden_});
    for (size_t g = 0; g < plan.ranks.size(); ++g) {
      Add(name + "U." + std::to_string(g) + ".weight",
          {int64_t{plan.heads_per_group} * config_.head_dim, plan.ranks[g]});
    }
  }

  void AddMlp(const std::string& name, int64_t width) {
    if (config_.fused_gate_up && name == "mlp.") {
      Add(name + "gate_up_proj.weight", {2 * width, hidden_});
    } else {
      Add(name + "gate_proj.weight", {width, hidden_});
      Add(name + "up_proj.weight", {width, hidden_});
    }
    Add(name + "down_proj.weight", {hidden_, width});
    if (!config_.mlp_bias) return;
    Add(name + "gate_proj.bias", {width});
    Add(name + "up_proj.bias", {width});
    Add(name + "down_proj.bias", {hidden_});
  }

  void AddExperts() {
    Add("mlp.gate.weight", {config_.num_experts, hidden_});
    for (int e = 0; e < config_.num_experts; ++e) {
      AddMlp("mlp.experts." + std::to_string(e) + ".", config_.moe_intermediate_size);
    }
  }

  const ModelConfig& config_;
  const int64_t hidden_;
  std::string prefix_;
  std::vector<std::pair<std::string, Shape>> tensors_;
};

// Page-aligned zeros, unmapped when the last owner goes.
std::shared_ptr<std::byte> MapMemory(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  return {static_cast<std::byte*>(data), [bytes](std::byte* p) { munmap(p, bytes); }};
}

void SetProjection(const DummyModel& model, const char* side, int heads, int rank,
                   const ModelConfig& config, ProjectionPlan* plan) {
  const std::string where = model.name + ": " + side;
  if (heads < 1 || config.num_kv_heads % heads != 0) {
    throw LoadError(where + " group: found " + std::to_string(heads) +
                    " heads, expected a divisor of num_key_value_heads = " +
                    std::to_string(config.num_kv_heads));
  }
  const int most = heads * config.head_dim;
  if (rank < 0 || rank > most) {
    throw LoadError(where + " rank: found " + std::to_string(rank) + ", expected 0 to " +
                    std::to_string(most));
  }
  plan->dense = rank == 0;
  plan->heads_per_group = plan->dense ? 1 : heads;
  plan->ranks.assign(static_cast<size_t>(config.num_kv_heads / plan->heads_per_group),
                     plan->dense ? config.head_dim : rank);
}

}  // namespace

void FillWithRandomBF16(std::span<uint64_t> words) {
  // Sign, the lowest bit of the exponent and the mantissa are random.
  uint64_t state = 0x9e3779b97f4a7c15u;
  for (uint64_t& word : words) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    word = (state & 0x80ff80ff80ff80ffu) | 0x3c003c003c003c00u;
  }
}

std::vector<LayerPlan> DummyPlan(const DummyModel& model, const ModelConfig& config) {
  LayerPlan layer;
  const DummyRecipe& recipe = model.recipe;
  SetProjection(model, "key", recipe.key_group_heads, recipe.key_rank, config, &layer.key);
  SetProjection(model, "value", recipe.value_group_heads, recipe.value_rank, config, &layer.value);
  return std::vector<LayerPlan>(static_cast<size_t>(config.num_layers), layer);
}

Safetensors DummyCheckpoint(const DummyModel& model, const ModelConfig& config,
                            const std::vector<LayerPlan>& plan, bool distinct) {
  ModelConfig unfused = config;
  unfused.fused_qkv = false;
  const TensorList list(unfused, plan);
  const auto align = [](size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  };
  size_t matrices = 0, largest = 0, ones = 0;
  const auto is_norm = [](const Shape& shape) { return shape.size() == 1; };
  for (const auto& [name, shape] : list.tensors()) {
    const auto bytes = align(static_cast<size_t>(Bytes(shape)));
    if (is_norm(shape)) {
      ones = std::max(ones, bytes);
    } else {
      matrices += bytes;
      largest = std::max(largest, bytes);
    }
  }
  if (!distinct) matrices = largest;
  const std::shared_ptr<std::byte> memory = MapMemory(ones + matrices);
  std::fill_n(reinterpret_cast<uint16_t*>(memory.get()), ones / 2, kOneBF16);
  FillWithRandomBF16(
      {reinterpret_cast<uint64_t*>(memory.get() + ones), matrices / sizeof(uint64_t)});

  SafetensorsMap entries;
  size_t next = 0;
  for (const auto& [name, shape] : list.tensors()) {
    const auto bytes = static_cast<size_t>(Bytes(shape));
    const std::byte* data = memory.get() + (is_norm(shape) ? 0 : ones + next);
    entries[name] = {"BF16", shape, {data, bytes}, model.name};
    if (distinct && !is_norm(shape)) next += align(bytes);
  }
  return Safetensors::FromMemory(model.name, std::move(entries), memory);
}

}  // namespace palu
