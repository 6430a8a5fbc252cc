// Checkpoints in memory, for tests that need one that does not exist: read, changed, written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace palu::testing {

// A directory of its own, removed at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

void WriteText(const std::string& path, const std::string& text);
std::string ReadText(const std::string& path);

struct TensorData {
  std::string dtype = "F32";
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;

  std::vector<float> Floats() const;
  static TensorData Of(const std::string& dtype, std::vector<int64_t> shape,
                       const std::vector<float>& numbers);
};

struct Checkpoint {
  nlohmann::json config;
  nlohmann::json palu_config;  // null: none
  std::map<std::string, TensorData> tensors;

  static Checkpoint Read(const std::string& directory);
  // Stores every tensor in this dtype.
  void Convert(const std::string& dtype);
  // shards > 1: model-0000i-of-0000n.safetensors with an index.
  void Write(const std::string& directory, int shards = 1) const;

  // Replaces W (k_proj or v_proj) of a layer by factors that multiply to it exactly, at full rank
  // heads_per_group * head_dim: U_g a fixed orthogonal matrix, VT_g = U_g^T W_g, both f32.
  void Factor(int layer, bool key, int heads_per_group);
  // palu_config.json with the same entry for every K and every V.
  void SetPaluConfig(const nlohmann::json& key, const nlohmann::json& value);
};

}  // namespace palu::testing
