// The weights of a model on its backend.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/cache/latent_layout.h"
#include "engine/model/model_config.h"
#include "engine/model/safetensors.h"
#include "kernels/backend.h"

namespace palu {

// K or V of one layer. D is the hidden size.
struct ProjectionWeights {
  Tensor down;             // low rank: VT [sum of ranks, D]; dense: W [kv_heads * head_dim, D]
  Tensor bias;             // [kv_heads * head_dim] or undefined; low rank: added after the rebuild
  std::vector<Tensor> up;  // low rank: U per group [heads_per_group * head_dim, rank]
};

// Tensors are undefined where the family has none.
struct LayerWeights {
  Tensor input_norm;          // [D], before attention
  Tensor attention_out_norm;  // [D], Gemma 3: after attention
  Tensor mlp_norm;            // [D], before the MLP
  Tensor mlp_out_norm;        // [D], Gemma 3: after the MLP
  Tensor q, q_bias;           // [heads * head_dim, D], [heads * head_dim]
  Tensor q_norm, k_norm;      // [head_dim]
  Tensor o, o_bias;           // [D, heads * head_dim], [D]
  ProjectionWeights key, value;
  Tensor gate, gate_bias;                      // [F, D], [F]
  Tensor up, up_bias;                          // [F, D], [F]
  Tensor down, down_bias;                      // [D, F], [D]
  Tensor router;                               // [experts, D]
  std::vector<Tensor> expert_gate, expert_up;  // [F, D] each
  std::vector<Tensor> expert_down;             // [D, F] each
};

// Owns the mapped files (host backends: tensors are views of them, in the file's dtype) or the
// buffers on the device. Immutable after Load, thread-safe.
class Weights {
 public:
  // specs: one per layer. format: nothing for the checkpoint's own. Throws LoadError naming the
  // tensor that is missing or has the wrong shape or dtype, or naming model.weights when the
  // backend has no kernels for the format or the checkpoint holds codes of another. Matrices whose
  // inner size is no multiple of kWeightGroup, norms, biases, the embedding and up factors stay as
  // stored. The backend must outlive the result.
  static std::unique_ptr<Weights> Load(Safetensors files, const ModelConfig& config,
                                       const std::vector<LayerSpec>& specs,
                                       std::optional<WeightFormat> format, Backend* backend);

  Tensor embedding;   // [V, D]
  Tensor final_norm;  // [D]
  Tensor lm_head;     // [V, D]; the embedding itself when tied
  std::vector<LayerWeights> layers;

  int64_t bytes() const { return bytes_; }  // of all tensors in use

 private:
  friend class WeightsLoader;
  explicit Weights(Safetensors files) : files_(std::move(files)) {}

  Safetensors files_;
  std::vector<Buffer> buffers_;
  int64_t bytes_ = 0;
};

}  // namespace palu
