// A checkpoint's weights as float32 matrices, one layer at a time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/model/model_config.h"
#include "tools/compress/linalg.h"

namespace palu {

// A gated MLP. Matrices are [out, in]; absent vectors are empty.
struct F32Mlp {
  MatrixF gate, up, down;
  VectorF gate_bias, up_bias, down_bias;
};

// Matrices are [out, in]; absent vectors are empty.
struct F32LayerWeights {
  VectorF input_norm, mlp_norm;
  VectorF attention_out_norm, mlp_out_norm;  // Gemma 3
  VectorF q_norm, k_norm;                    // [head_dim]
  MatrixF q, k, v, o;
  VectorF q_bias, k_bias, v_bias, o_bias;
  F32Mlp mlp;                   // dense layers
  MatrixF router;               // mixture of experts: [experts, hidden]
  std::vector<F32Mlp> experts;  // likewise
};

// Read-only after construction. Layer() is not thread-safe: it may read the next layer from disk.
class F32Model {
 public:
  virtual ~F32Model() = default;
  const ModelConfig& config() const { return config_; }
  const MatrixF& embedding() const { return embedding_; }
  const MatrixF& head() const { return head_.size() > 0 ? head_ : embedding_; }
  const VectorF& final_norm() const { return final_norm_; }
  // [positions, rotary_dim] of ModelConfig::ropes[i]: cosines, then sines.
  const MatrixF& cos_sin(int rope) const { return cos_sin_[rope]; }
  // Valid until the next call.
  virtual const F32LayerWeights& Layer(int layer) = 0;

 protected:
  ModelConfig config_;
  MatrixF embedding_, head_;
  VectorF final_norm_;
  std::vector<MatrixF> cos_sin_;
};

}  // namespace palu
