#include "tools/compress/checkpoint_writer.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "engine/model/json_file.h"
#include "engine/model/palu_config.h"
#include "tools/compress/checkpoint_model.h"
#include "tools/compress/checkpoint_outputs.h"

namespace palu {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> Bytes(const void* data, size_t size) {
  return {static_cast<const std::byte*>(data), size};
}

void WriteF16(const MatrixF& m, const ByteSink& sink) {
  const Eigen::Matrix<Eigen::half, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rounded =
      m.cast<Eigen::half>();
  sink(Bytes(rounded.data(), static_cast<size_t>(rounded.size()) * 2));
}

void AppendFactors(const FactorStore& factors, const ModelConfig& config, int layer, bool key,
                   const ProjectionSpec& spec, LatentFormat format,
                   std::vector<CheckpointOutput>* outputs) {
  const std::string name = ProjectionName(layer, key);
  int64_t rows = 0;
  for (const int rank : spec.ranks) rows += rank;
  const auto groups = static_cast<int>(spec.ranks.size());
  outputs->push_back({{name + ".VT.weight", "F16", {rows, config.hidden_size}},
                      [=, &factors](const ByteSink& sink) {
                        for (int g = 0; g < groups; ++g) {
                          WriteF16(factors.Cut(layer, key, g, spec.ranks[g], format).down, sink);
                        }
                      }});
  for (int g = 0; g < groups; ++g) {
    const int rank = spec.ranks[g];
    outputs->push_back({{name + ".U." + std::to_string(g) + ".weight",
                         "F16",
                         {int64_t{spec.heads_per_group} * config.head_dim, rank}},
                        [=, &factors](const ByteSink& sink) {
                          WriteF16(factors.Cut(layer, key, g, rank, format).up, sink);
                        }});
  }
}

// Fused projections become one tensor per projection; returns what is replaced by that.
std::set<std::string> ListFused(const Safetensors& files, const ModelConfig& config,
                                std::vector<CheckpointOutput>* outputs) {
  std::set<std::string> replaced;
  if (!config.fused_qkv) return replaced;
  const int64_t q_rows = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_rows = int64_t{config.num_kv_heads} * config.head_dim;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const std::string attention = "model.layers." + std::to_string(layer) + ".self_attn.";
    const SafetensorsEntry* fused = files.Find(attention + "qkv_proj.weight");
    if (fused == nullptr) continue;
    replaced.insert(attention + "qkv_proj.weight");
    outputs->push_back(RowsOf(attention + "q_proj.weight", *fused, 0, q_rows));
    outputs->push_back(RowsOf(attention + "k_proj.weight", *fused, q_rows, kv_rows));
    outputs->push_back(RowsOf(attention + "v_proj.weight", *fused, q_rows + kv_rows, kv_rows));
  }
  return replaced;
}

void ListRest(const Safetensors& files, const std::set<std::string>& replaced,
              std::vector<CheckpointOutput>* outputs) {
  for (const auto& [name, entry] : files.entries()) {
    if (replaced.count(name) == 0) outputs->push_back(CopyOf(name, entry));
  }
}

std::vector<CheckpointOutput> ListOutputs(const Safetensors& files, const ModelConfig& config,
                                          const FactorStore& factors, const CompressionPlan& plan,
                                          CheckpointLayout layout) {
  std::vector<CheckpointOutput> outputs;
  std::set<std::string> replaced = ListFused(files, config, &outputs);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (const bool key : {true, false}) {
      const ProjectionSpec& spec = key ? plan[layer].key : plan[layer].value;
      if (spec.dense) continue;
      const std::string weight = ProjectionName(layer, key) + ".weight";
      replaced.insert(weight);
      std::erase_if(outputs, [&](const CheckpointOutput& output) {
        return output.declaration.name == weight;
      });
      const LatentFormat format =
          layout == CheckpointLayout::kOurs ? spec.format : LatentFormat::kF16;
      AppendFactors(factors, config, layer, key, spec, format, &outputs);
    }
  }
  ListRest(files, replaced, &outputs);
  return outputs;
}

void WriteText(const std::string& path, const std::string& text) {
  std::ofstream out(path);
  out << text;
  if (!out.flush()) throw CompressError(path + ": cannot be written (disk full?)");
}

nlohmann::json SpecJson(const ProjectionSpec& spec) {
  return {{"kind", spec.dense ? "dense" : "low_rank"},
          {"group_size", spec.heads_per_group},
          {"ranks", spec.ranks},
          {"format", Name(spec.format)},
          {"rotation", !RotatedByDefault(spec.dense, spec.format) ? "none"
                       : spec.dense                               ? "hadamard"
                                                                  : "folded"}};
}

// The authors name a model family by prefixing the original's.
void WriteOfficialConfig(const std::string& source, const ModelConfig& config,
                         const CompressionPlan& plan, const std::string& directory) {
  static const std::map<std::string, std::pair<std::string, std::string>> kFamilies = {
      {"llama", {"palullama", "PaluLlamaForCausalLM"}},
      {"mistral", {"palumistral", "PaluMistralForCausalLM"}},
      {"qwen2", {"paluqwen2", "PaluQwenForCausalLM"}}};
  const auto family = kFamilies.find(config.model_type);
  if (family == kFamilies.end()) {
    throw CompressError(source + "/config.json: model_type " + config.model_type +
                        ": the authors' layout knows llama, mistral and qwen2 only");
  }
  const std::string file = source + "/config.json";
  Json json = ParseJson(ReadFile(file), file);
  json["original_model_name_or_path"] = fs::path(source).filename().string();
  json["model_type"] = family->second.first;
  json["architectures"] = {family->second.second};
  json["head_wise_ranks"] = Json::object();
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (const bool key : {true, false}) {
      const ProjectionSpec& spec = key ? plan[layer].key : plan[layer].value;
      if (!spec.dense) json["head_wise_ranks"][ProjectionName(layer, key)] = spec.ranks;
    }
  }
  WriteText(directory + "/config.json", json.dump(2) + "\n");
}

// Down factors that the server is to rotate before it rounds them.
std::set<std::string> DownFactors(const ModelConfig& config) {
  std::set<std::string> names;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (const bool key : {true, false}) names.insert(ProjectionName(layer, key) + ".VT.weight");
  }
  return names;
}

}  // namespace

void WriteCheckpoint(const std::string& source, const Safetensors& files, const ModelConfig& config,
                     const FactorStore& factors, const CompressionPlan& plan,
                     const CheckpointFormat& format, const nlohmann::json& facts,
                     const std::string& directory) {
  CopyOtherFiles(source, directory);
  const bool official = format.layout == CheckpointLayout::kOfficial;
  std::vector<CheckpointOutput> outputs = ListOutputs(files, config, factors, plan, format.layout);
  if (format.weights != WeightFormat::kStored) {
    const std::set<std::string> kept = official ? DownFactors(config) : std::set<std::string>();
    outputs = Quantized(std::move(outputs), files, config, format.weights, kept, format.threads);
  }
  WriteOutputs(outputs, directory);
  if (official) {
    WriteOfficialConfig(source, config, plan, directory);
    return;
  }
  nlohmann::json json = facts;
  json["format"] = "palu";
  json["version"] = 1;
  json["layers"] = nlohmann::json::array();
  for (const LayerSpec& layer : plan) {
    json["layers"].push_back({{"k", SpecJson(layer.key)}, {"v", SpecJson(layer.value)}});
  }
  WriteText(directory + "/palu_config.json", json.dump(1) + "\n");
}

void WriteQuantizedCheckpoint(const std::string& source, WeightFormat format, int threads,
                              const std::string& directory) {
  const ModelConfig config = ModelConfig::Load(source);
  const Safetensors files = Safetensors::OpenDirectory(source);
  const std::vector<LayerPlan> plan = LoadPlan(source, config);
  std::set<std::string> kept;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (const bool key : {true, false}) {
      const ProjectionPlan& projection = key ? plan[layer].key : plan[layer].value;
      if (projection.rotation.value_or(Rotation::kHadamard) == Rotation::kHadamard) {
        kept.insert(ProjectionName(layer, key) + ".VT.weight");
      }
    }
  }
  CopyOtherFiles(source, directory);
  std::vector<CheckpointOutput> outputs;
  ListRest(files, ListFused(files, config, &outputs), &outputs);
  WriteOutputs(Quantized(std::move(outputs), files, config, format, kept, threads), directory);
}

}  // namespace palu
