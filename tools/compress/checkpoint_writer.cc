#include "tools/compress/checkpoint_writer.h"

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>

#include "engine/model/json_file.h"
#include "engine/model/palu_config.h"
#include "engine/model/safetensors_writer.h"
#include "tools/compress/checkpoint_model.h"

namespace palu {
namespace {

namespace fs = std::filesystem;

// A tensor and where its bytes come from when its turn has come.
struct Output {
  SafetensorsDeclaration declaration;
  std::function<void(SafetensorsWriter*)> write;
};

std::span<const std::byte> Bytes(const void* data, size_t size) {
  return {static_cast<const std::byte*>(data), size};
}

void WriteF16(const MatrixF& m, SafetensorsWriter* writer) {
  const Eigen::Matrix<Eigen::half, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rounded =
      m.cast<Eigen::half>();
  writer->Write(Bytes(rounded.data(), static_cast<size_t>(rounded.size()) * 2));
}

Output CopyOf(const std::string& name, const SafetensorsEntry& entry) {
  return {{name, entry.dtype, entry.shape},
          [&entry](SafetensorsWriter* writer) { writer->Write(entry.data); }};
}

// Rows [first, first + rows) of a matrix in its own dtype.
Output RowsOf(const std::string& name, const SafetensorsEntry& entry, int64_t first, int64_t rows) {
  const size_t row_bytes = entry.data.size() / static_cast<size_t>(entry.shape[0]);
  return {{name, entry.dtype, {rows, entry.shape[1]}},
          [&entry, first, rows, row_bytes](SafetensorsWriter* writer) {
            writer->Write(entry.data.subspan(static_cast<size_t>(first) * row_bytes,
                                             static_cast<size_t>(rows) * row_bytes));
          }};
}

void AppendFactors(const FactorStore& factors, const ModelConfig& config, int layer, bool key,
                   const ProjectionSpec& spec, LatentFormat format, std::vector<Output>* outputs) {
  const std::string name = ProjectionName(layer, key);
  int64_t rows = 0;
  for (const int rank : spec.ranks) rows += rank;
  const auto groups = static_cast<int>(spec.ranks.size());
  outputs->push_back({{name + ".VT.weight", "F16", {rows, config.hidden_size}},
                      [=, &factors](SafetensorsWriter* writer) {
                        for (int g = 0; g < groups; ++g) {
                          WriteF16(factors.Cut(layer, key, g, spec.ranks[g], format).down, writer);
                        }
                      }});
  for (int g = 0; g < groups; ++g) {
    const int rank = spec.ranks[g];
    outputs->push_back({{name + ".U." + std::to_string(g) + ".weight",
                         "F16",
                         {int64_t{spec.heads_per_group} * config.head_dim, rank}},
                        [=, &factors](SafetensorsWriter* writer) {
                          WriteF16(factors.Cut(layer, key, g, rank, format).up, writer);
                        }});
  }
}

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::vector<Output> ListOutputs(const Safetensors& files, const ModelConfig& config,
                                const FactorStore& factors, const CompressionPlan& plan,
                                CheckpointLayout layout) {
  std::set<std::string> replaced;
  std::vector<Output> outputs;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const std::string attention = "model.layers." + std::to_string(layer) + ".self_attn.";
    const int64_t q_rows = int64_t{config.num_heads} * config.head_dim;
    const int64_t kv_rows = int64_t{config.num_kv_heads} * config.head_dim;
    const SafetensorsEntry* fused =
        config.fused_qkv ? files.Find(attention + "qkv_proj.weight") : nullptr;
    if (fused != nullptr) {
      replaced.insert(attention + "qkv_proj.weight");
      outputs.push_back(RowsOf(attention + "q_proj.weight", *fused, 0, q_rows));
    }
    for (const bool key : {true, false}) {
      const ProjectionSpec& spec = key ? plan[layer].key : plan[layer].value;
      const std::string weight = ProjectionName(layer, key) + ".weight";
      if (!spec.dense) {
        replaced.insert(weight);
        const LatentFormat format =
            layout == CheckpointLayout::kOurs ? spec.format : LatentFormat::kF16;
        AppendFactors(factors, config, layer, key, spec, format, &outputs);
      } else if (fused != nullptr) {
        outputs.push_back(RowsOf(weight, *fused, key ? q_rows : q_rows + kv_rows, kv_rows));
      }
    }
  }
  for (const auto& [name, entry] : files.entries()) {
    if (replaced.count(name) == 0) outputs.push_back(CopyOf(name, entry));
  }
  return outputs;
}

void WriteText(const std::string& path, const std::string& text) {
  std::ofstream out(path);
  out << text;
  if (!out.flush()) throw CompressError(path + ": cannot be written (disk full?)");
}

void CopyOtherFiles(const std::string& source, const std::string& directory) {
  for (const auto& entry : fs::directory_iterator(source)) {
    const std::string name = entry.path().filename().string();
    const bool weights = EndsWith(name, ".safetensors") || EndsWith(name, ".bin") ||
                         EndsWith(name, ".safetensors.index.json") || EndsWith(name, ".pth") ||
                         EndsWith(name, ".gguf");
    if (!entry.is_regular_file() || weights) continue;
    std::error_code error;
    fs::copy_file(entry.path(), directory + "/" + name, fs::copy_options::overwrite_existing,
                  error);
    if (error) throw CompressError(directory + "/" + name + ": " + error.message());
    fs::permissions(directory + "/" + name, fs::perms::owner_write, fs::perm_options::add, error);
  }
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

}  // namespace

void WriteCheckpoint(const std::string& source, const Safetensors& files, const ModelConfig& config,
                     const FactorStore& factors, const CompressionPlan& plan,
                     CheckpointLayout layout, const nlohmann::json& facts,
                     const std::string& directory) {
  CopyOtherFiles(source, directory);
  const std::vector<Output> outputs = ListOutputs(files, config, factors, plan, layout);
  std::vector<SafetensorsDeclaration> declarations;
  for (const Output& output : outputs) declarations.push_back(output.declaration);
  SafetensorsWriter writer(directory + "/model.safetensors", declarations);
  for (const Output& output : outputs) output.write(&writer);
  writer.Finish();
  if (layout == CheckpointLayout::kOfficial) {
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

}  // namespace palu
