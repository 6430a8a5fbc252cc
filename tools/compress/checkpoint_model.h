// F32Model over the safetensors files of a Hugging Face checkpoint.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "engine/model/safetensors.h"
#include "tools/compress/f32_model.h"

namespace palu {

// One tensor as float32; expects the shape [rows, cols], or [rows] when cols is 0. Throws LoadError
// when it is absent, of another shape or dtype, and CompressError when it is not finite.
MatrixF ReadMatrix(const Safetensors& files, const std::string& name, int64_t rows, int64_t cols);

// Of names, shapes and samples of every tensor: tells checkpoints apart wherever they lie.
uint64_t Fingerprint(const Safetensors& files);

// Layers are converted when asked for; those converted are kept as long as they fit in
// keep_bytes of memory together, so that a model larger than memory streams from its shards.
class CheckpointModel : public F32Model {
 public:
  // positions: rows of the RoPE tables. Throws LoadError and CompressError.
  CheckpointModel(const std::string& directory, int positions, int64_t keep_bytes);

  const F32LayerWeights& Layer(int layer) override;
  const Safetensors& files() const { return files_; }

 private:
  F32LayerWeights Read(int layer) const;

  Safetensors files_;
  int64_t keep_bytes_;
  int64_t kept_bytes_ = 0;
  std::vector<std::unique_ptr<F32LayerWeights>> kept_;
  int current_ = -1;  // layer held in streamed_
  F32LayerWeights streamed_;
};

// Reads K and V of one layer, split from a fused tensor where the checkpoint has one.
struct KeyValueWeights {
  MatrixF k, v;
};
KeyValueWeights ReadKeyValue(const Safetensors& files, const ModelConfig& config, int layer);

}  // namespace palu
