#include "engine/model/palu_config.h"

#include <filesystem>
#include <set>

#include "engine/model/json_file.h"
#include "engine/status.h"

namespace palu {
namespace {

constexpr int kVersion = 1;

std::string FormatWords() {
  return OneOf({"auto", "f32", "bf16", "f16", "fp8", "int8", "int4", "int3", "int2"});
}

// ranks: the groups' ranks, or absent for a dense projection.
void CheckGroups(const JsonObject& object, const std::string& key, const ModelConfig& config,
                 ProjectionPlan* plan) {
  const int width = plan->heads_per_group * config.head_dim;
  const size_t groups = static_cast<size_t>(config.num_kv_heads / plan->heads_per_group);
  if (plan->dense) {
    plan->ranks.assign(groups, width);
    return;
  }
  for (const int64_t rank : object.Ints(key, 1, width)) {
    plan->ranks.push_back(static_cast<int>(rank));
  }
  if (plan->ranks.size() != groups) {
    object.Fail(key, std::to_string(groups) + " ranks (" + std::to_string(config.num_kv_heads) +
                         " KV heads in groups of " + std::to_string(plan->heads_per_group) + ")");
  }
}

std::optional<LatentFormat> ParseFormat(const JsonObject& object) {
  const std::string name = object.String("format", "auto");
  if (name == "auto") return std::nullopt;
  const auto format = ParseLatentFormat(name);
  if (!format) object.Fail("format", FormatWords());
  return format;
}

std::optional<Rotation> ParseRotation(const JsonObject& object, bool dense) {
  const std::string name = object.String("rotation", "auto");
  if (name == "auto") return std::nullopt;
  if (name == "none") return Rotation::kNone;
  if (name == "hadamard") return Rotation::kHadamard;
  if (name == "folded" && !dense) return Rotation::kFolded;
  object.Fail("rotation", dense ? OneOf({"auto", "none", "hadamard"})
                                : OneOf({"auto", "none", "hadamard", "folded"}));
}

ProjectionPlan ParseProjection(const JsonObject& layer, const std::string& key,
                               const ModelConfig& config) {
  const auto object = layer.Object(key);
  if (!object) layer.Fail(key, "an object with kind, group_size, ranks, format and rotation");
  ProjectionPlan plan;
  const std::string kind = object->String("kind");
  if (kind != "dense" && kind != "low_rank") object->Fail("kind", OneOf({"dense", "low_rank"}));
  plan.dense = kind == "dense";
  const int64_t absent = 1;
  plan.heads_per_group =
      static_cast<int>(plan.dense ? object->Int("group_size", 1, config.num_kv_heads, absent)
                                  : object->Int("group_size", 1, config.num_kv_heads));
  if (config.num_kv_heads % plan.heads_per_group != 0) {
    object->Fail("group_size",
                 "a divisor of num_key_value_heads = " + std::to_string(config.num_kv_heads));
  }
  CheckGroups(*object, "ranks", config, &plan);
  plan.format = ParseFormat(*object);
  plan.rotation = ParseRotation(*object, plan.dense);
  return plan;
}

std::vector<LayerPlan> DensePlan(const ModelConfig& config) {
  ProjectionPlan dense;
  dense.ranks.assign(static_cast<size_t>(config.num_kv_heads), config.head_dim);
  return std::vector<LayerPlan>(static_cast<size_t>(config.num_layers), {dense, dense});
}

LatentFormat DefaultFormat(const ProjectionPlan& plan, const std::string& name,
                           const Safetensors& files) {
  if (plan.dense) return LatentFormat::kBF16;
  const SafetensorsEntry* vt = files.Find(name + ".VT.weight");
  if (vt != nullptr && vt->dtype == "F32") return LatentFormat::kF32;
  if (vt != nullptr && vt->dtype == "F16") return LatentFormat::kF16;
  return LatentFormat::kBF16;
}

}  // namespace

bool RotatedByDefault(bool dense, LatentFormat format) {
  return IsQuantized(format) || (format == LatentFormat::kFp8 && !dense);
}

std::string ProjectionName(int layer, bool key) {
  return "model.layers." + std::to_string(layer) + ".self_attn." + (key ? "k_proj" : "v_proj");
}

std::vector<LayerPlan> ParsePaluConfig(std::string_view text, const std::string& file,
                                       const ModelConfig& config) {
  const Json root = ParseJson(text, file);
  const JsonObject object(root, file);
  if (object.String("format") != "palu") object.Fail("format", "\"palu\"");
  if (object.Int("version", 0, INT32_MAX) != kVersion) {
    object.Fail("version", std::to_string(kVersion));
  }
  const Json& layers = object.Array("layers");
  if (layers.size() != static_cast<size_t>(config.num_layers)) {
    throw LoadError(file + ": key \"layers\": found " + std::to_string(layers.size()) +
                    " entries, expected " + std::to_string(config.num_layers) +
                    ", as num_hidden_layers in config.json");
  }
  std::vector<LayerPlan> plan;
  for (size_t i = 0; i < layers.size(); ++i) {
    const JsonObject layer(layers[i], file, "layers[" + std::to_string(i) + "]");
    plan.push_back({ParseProjection(layer, "k", config), ParseProjection(layer, "v", config)});
  }
  return plan;
}

std::vector<LayerPlan> ParseHeadWiseRanks(std::string_view config_json, const std::string& file,
                                          const ModelConfig& config) {
  std::vector<LayerPlan> plan = DensePlan(config);
  const Json root = ParseJson(config_json, file);
  const JsonObject object(root, file);
  const auto ranks = object.Object("head_wise_ranks");
  if (!ranks) return plan;
  std::set<std::string> known;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (const bool key : {true, false}) {
      const std::string name = ProjectionName(layer, key);
      known.insert(name);
      if (!ranks->Has(name)) continue;
      const int groups = static_cast<int>(ranks->Array(name).size());
      if (groups == 0 || config.num_kv_heads % groups != 0) {
        ranks->Fail(name, "as many ranks as divide num_key_value_heads = " +
                              std::to_string(config.num_kv_heads));
      }
      ProjectionPlan projection;
      projection.dense = false;
      projection.heads_per_group = config.num_kv_heads / groups;
      CheckGroups(*ranks, name, config, &projection);
      (key ? plan[layer].key : plan[layer].value) = std::move(projection);
    }
  }
  for (const auto& item : root.at("head_wise_ranks").items()) {
    if (known.count(item.key()) == 0) {
      ranks->Fail(item.key(), "only the k_proj and v_proj of layers 0 to " +
                                  std::to_string(config.num_layers - 1));
    }
  }
  return plan;
}

std::vector<LayerPlan> LoadPlan(const std::string& directory, const ModelConfig& config) {
  const std::string ours = directory + "/palu_config.json";
  if (std::filesystem::exists(ours)) return ParsePaluConfig(ReadFile(ours), ours, config);
  const std::string file = directory + "/config.json";
  return ParseHeadWiseRanks(ReadFile(file), file, config);
}

std::vector<LayerSpec> ResolveCache(const std::vector<LayerPlan>& plan, const CacheOptions& options,
                                    const Safetensors& files) {
  const auto format = ParseLatentFormat(options.format);
  if (!format && options.format != "auto") {
    throw std::runtime_error("cache.format: found \"" + options.format + "\", expected " +
                             FormatWords());
  }
  if (options.rotation != "auto" && options.rotation != "none" && options.rotation != "hadamard") {
    throw std::runtime_error("cache.rotation: found \"" + options.rotation + "\", expected " +
                             OneOf({"auto", "none", "hadamard"}));
  }
  const auto settle = [&](const ProjectionPlan& projection, const std::string& name) {
    ProjectionSpec spec;
    spec.dense = projection.dense;
    spec.heads_per_group = projection.heads_per_group;
    spec.ranks = projection.ranks;
    spec.format = projection.format ? *projection.format
                  : format          ? *format
                                    : DefaultFormat(projection, name, files);
    const bool by_option = options.rotation == "auto" ? RotatedByDefault(spec.dense, spec.format)
                                                      : options.rotation == "hadamard";
    spec.hadamard = projection.rotation ? *projection.rotation == Rotation::kHadamard : by_option;
    return spec;
  };
  std::vector<LayerSpec> specs;
  for (size_t i = 0; i < plan.size(); ++i) {
    const int layer = static_cast<int>(i);
    specs.push_back({settle(plan[i].key, ProjectionName(layer, true)),
                     settle(plan[i].value, ProjectionName(layer, false))});
  }
  return specs;
}

}  // namespace palu
