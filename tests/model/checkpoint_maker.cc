#include "tests/model/checkpoint_maker.h"

#include <unistd.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "engine/model/host_floats.h"
#include "engine/model/safetensors.h"
#include "engine/model/safetensors_writer.h"

namespace palu::testing {
namespace {

DType ToDType(const std::string& name) {
  return name == "BF16" ? DType::kBF16 : name == "F16" ? DType::kF16 : DType::kF32;
}

// Orthonormal rows by Gram-Schmidt on seeded Gaussian vectors; [size, size] row-major.
std::vector<double> RandomOrthogonal(int size, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<double> q(static_cast<size_t>(size) * size);
  for (int i = 0; i < size; ++i) {
    double* row = q.data() + static_cast<size_t>(i) * size;
    for (int c = 0; c < size; ++c) row[c] = normal(generator);
    // Twice is enough.
    for (int pass = 0; pass < 2; ++pass) {
      for (int j = 0; j < i; ++j) {
        const double* other = q.data() + static_cast<size_t>(j) * size;
        double dot = 0;
        for (int c = 0; c < size; ++c) dot += row[c] * other[c];
        for (int c = 0; c < size; ++c) row[c] -= dot * other[c];
      }
    }
    double norm = 0;
    for (int c = 0; c < size; ++c) norm += row[c] * row[c];
    for (int c = 0; c < size; ++c) row[c] /= std::sqrt(norm);
  }
  return q;
}

}  // namespace

TempDir::TempDir() {
  static std::atomic<int> counter{0};
  path_ = (std::filesystem::temp_directory_path() /
           ("palu-test-" + std::to_string(getpid()) + "-" + std::to_string(counter++)))
              .string();
  std::filesystem::create_directories(path_);
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void WriteText(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string ReadText(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::vector<float> TensorData::Floats() const { return ToFloats(bytes, ToDType(dtype)); }

TensorData TensorData::Of(const std::string& dtype, std::vector<int64_t> shape,
                          const std::vector<float>& numbers) {
  return {dtype, std::move(shape), FromFloats(numbers, ToDType(dtype))};
}

Checkpoint Checkpoint::Read(const std::string& directory) {
  Checkpoint checkpoint;
  checkpoint.config = nlohmann::json::parse(ReadText(directory + "/config.json"));
  const Safetensors files = Safetensors::OpenDirectory(directory);
  for (const auto& [name, entry] : files.entries()) {
    checkpoint.tensors[name] = {entry.dtype, entry.shape, {entry.data.begin(), entry.data.end()}};
  }
  return checkpoint;
}

void Checkpoint::Convert(const std::string& dtype) {
  for (auto& [name, tensor] : tensors) {
    tensor = TensorData::Of(dtype, tensor.shape, tensor.Floats());
  }
}

void Checkpoint::Write(const std::string& directory, int shards) const {
  WriteText(directory + "/config.json", config.dump());
  if (!palu_config.is_null()) WriteText(directory + "/palu_config.json", palu_config.dump());
  nlohmann::json index = {{"metadata", {{"total_size", 0}}}};
  for (int shard = 0; shard < shards; ++shard) {
    const std::string file = shards == 1 ? "model.safetensors"
                                         : "model-" + std::to_string(shard + 1) + "-of-" +
                                               std::to_string(shards) + ".safetensors";
    std::vector<SafetensorsDeclaration> declarations;
    int i = 0;
    for (const auto& [name, tensor] : tensors) {
      if (i++ % shards == shard) declarations.push_back({name, tensor.dtype, tensor.shape});
    }
    SafetensorsWriter writer(directory + "/" + file, declarations);
    for (const SafetensorsDeclaration& declaration : declarations) {
      writer.Write(tensors.at(declaration.name).bytes);
      index["weight_map"][declaration.name] = file;
    }
    writer.Finish();
  }
  if (shards > 1) WriteText(directory + "/model.safetensors.index.json", index.dump());
}

void Checkpoint::Factor(int layer, bool key, int heads_per_group) {
  const std::string name =
      "model.layers." + std::to_string(layer) + ".self_attn." + (key ? "k_proj" : "v_proj");
  const TensorData dense = tensors.at(name + ".weight");
  const std::vector<float> w = dense.Floats();
  const int head_dim = config.at("head_dim").get<int>();
  const int rows = static_cast<int>(dense.shape[0]), columns = static_cast<int>(dense.shape[1]);
  const int rank = heads_per_group * head_dim;
  std::vector<float> vt(w.size());
  for (int g = 0; g < rows / rank; ++g) {
    const std::vector<double> u = RandomOrthogonal(rank, static_cast<unsigned>(31 * layer + g));
    for (int r = 0; r < rank; ++r) {
      for (int c = 0; c < columns; ++c) {
        double sum = 0;
        for (int i = 0; i < rank; ++i) {
          sum += u[static_cast<size_t>(i) * rank + r] *
                 w[static_cast<size_t>(g * rank + i) * columns + c];
        }
        vt[static_cast<size_t>(g * rank + r) * columns + c] = static_cast<float>(sum);
      }
    }
    tensors[name + ".U." + std::to_string(g) + ".weight"] =
        TensorData::Of("F32", {rank, rank}, std::vector<float>(u.begin(), u.end()));
  }
  tensors[name + ".VT.weight"] = TensorData::Of("F32", {rows, columns}, vt);
  tensors.erase(name + ".weight");
}

void Checkpoint::SetPaluConfig(const nlohmann::json& key, const nlohmann::json& value) {
  palu_config = {{"format", "palu"}, {"version", 1}, {"layers", nlohmann::json::array()}};
  for (int i = 0; i < config.at("num_hidden_layers").get<int>(); ++i) {
    palu_config["layers"].push_back({{"k", key}, {"v", value}});
  }
}

}  // namespace palu::testing
