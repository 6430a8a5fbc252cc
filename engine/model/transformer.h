// The forward pass of every family, driven by ModelConfig.
#pragma once

#include <span>
#include <vector>

#include "engine/cache/latent_layout.h"
#include "engine/model/model_config.h"
#include "engine/model/weights.h"
#include "kernels/backend.h"

namespace palu {

// A step's inputs on the device; shapes as in LatentAttentionArgs.
struct StepInputs {
  Tensor token_ids;     // [T] i32
  Tensor positions;     // [T] i32
  Tensor cu_seqlens;    // [S + 1] i32
  Tensor context_lens;  // [S] i32
  // Of every layer group.
  std::vector<Tensor> slot_mapping;  // [T] i64
  std::vector<Tensor> block_tables;  // [S, max_blocks] i32
  // The same in host memory.
  std::span<const int32_t> host_cu_seqlens, host_context_lens;
};

// Runs on one backend; owns the activations and the RoPE tables, refers to everything else, which
// must outlive it. Used by the engine thread only.
class Transformer {
 public:
  // max_logit_rows: most rows of one Logits call.
  Transformer(const ModelConfig& config, const Weights& weights,
              const std::vector<LayerSpec>& specs, const LatentLayout& layout, Backend* backend,
              int max_tokens, int max_logit_rows, int max_context);

  // Writes the step's latents into the pool and leaves the hidden states of all T tokens inside.
  void Forward(const StepInputs& inputs, const LatentPool& pool);

  // logits[i] = lm_head(norm(hidden state of token rows[i])), of the last Forward.
  void Logits(const Tensor& rows /* [R] i32 */, const Tensor& logits /* [R, V] f32 */);

  // norm(hidden state of token rows[i]), of the last Forward; valid until the next call of this or
  // of Logits. [R, D] in the type of activations.
  Tensor FinalHidden(const Tensor& rows /* [R] i32 */);

  int64_t workspace_bytes() const { return workspace_bytes_; }

  // What the backend's Reserve has to know of the model; T, S and context are left at 0.
  static StepLimits Limits(const ModelConfig& config, const std::vector<LayerSpec>& specs);

 private:
  Tensor Workspace(int64_t rows, int64_t columns, DType dtype);
  void BuildProjections(const std::vector<LayerSpec>& specs, const LatentLayout& layout);
  void Attention(size_t index, const StepInputs& inputs, const LatentPool& pool);
  // Norm of queries; norm and RoPE, and rotation if the layer rotates, of keys that are cached
  // dense.
  void NormAndRotate(size_t index, const Tensor& positions, const Tensor& q_heads,
                     const Tensor& key);
  void Attend(size_t index, const StepInputs& inputs, const LatentPool& pool, const Tensor& q_heads,
              const Tensor& out_heads);
  void Mlp(size_t index, int64_t tokens);
  RmsNormArgs NormOf(const Tensor& x, const Tensor& weight, const Tensor& out) const;
  void Norm(const Tensor& x, const Tensor& weight, const Tensor& out);
  void HeadNorm(const Tensor& heads, const Tensor& weight);
  const Tensor& RopeTableOf(size_t index) const;
  // The product's out is the residual stream, through the norm of Gemma's sandwich if there is one.
  void AddToResidual(MatmulArgs product, const Tensor& norm);
  // The hidden states of these tokens, gathered.
  Tensor LastHidden(const Tensor& rows);

  struct Layer {
    size_t group = 0;  // of the cache's layer groups
    LatentProjection key, value;
    std::vector<Buffer> packed_up;                  // of the keys, if the backend has its own form
    bool rotate_key = false, rotate_value = false;  // dense, Hadamard at run time
    int64_t key_numbers = 0, value_numbers = 0;     // per token in the cache
  };

  const ModelConfig& config_;
  const Weights& weights_;
  Backend& backend_;
  std::vector<Layer> layers_;
  std::vector<Buffer> buffers_;
  std::vector<Tensor> rope_tables_;  // as ModelConfig::ropes, [max_context, rotary_dim] f32
  int64_t workspace_bytes_ = 0;
  int64_t tokens_ = 0;  // of the last Forward

  Tensor hidden_;         // [T, D] residual stream
  Tensor normed_;         // [T, D]
  Tensor branch_;         // [T, D] what attention or MLP adds
  Tensor q_, attention_;  // [T, heads * head_dim]
  Tensor key_, value_;    // [T * widest row], reshaped per layer
  Tensor gate_, up_;      // [T, F]
  Tensor router_;         // [T, experts] f32
  Tensor logit_rows_;     // [max_logit_rows, D]
};

}  // namespace palu
