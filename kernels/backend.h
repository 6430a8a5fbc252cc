// The seam between the engine and a device. Every op takes one Args struct of Tensors, writes only
// the outputs that it names, never allocates, and is ordered after the ops called before it.
// Activations have the backend's activation dtype (CPU: f32); weights are f32, bf16 or f16.
// T is the number of tokens of the step, S of sequences, D the hidden size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>

#include "kernels/buffer.h"
#include "kernels/latent_format.h"
#include "kernels/tensor.h"
#include "kernels/weight_format.h"

namespace palu {

// out[t] = scale * table[ids[t]].
struct EmbeddingArgs {
  Tensor ids;    // [T] i32
  Tensor table;  // [V, D]
  Tensor out;    // [T, D]
  float scale = 1.0f;
};

// out = x / rms(x) * (weight + weight_offset), over the last dimension. x is [T, D] or
// [T, heads, head_dim] (per-head norm of q or k); out may be x.
struct RmsNormArgs {
  Tensor x;
  Tensor weight;  // [last dim]
  Tensor out;     // as x
  float eps = 1e-5f;
  float weight_offset = 0.0f;  // 1 for Gemma
};

// out = x W^T + bias (+ out when accumulate). Row t of out depends on row t of x alone, bit for
// bit, whatever T is.
struct MatmulArgs {
  Tensor x;       // [T, K]
  Tensor weight;  // [N, K]; floats, or what PackWeight made
  Tensor bias;    // [N] or undefined
  Tensor out;     // [T, N]
  bool accumulate = false;
};

// x += y.
struct AddArgs {
  Tensor x;  // [T, D]
  Tensor y;  // [T, D]
};

// Rotary embedding in place on the first rotary_dim dims of every head, pairs (i, i + rotary/2).
struct RopeArgs {
  Tensor x;          // [T, heads, head_dim]
  Tensor positions;  // [T] i32
  Tensor cos_sin;    // [max_positions, rotary_dim] f32: rotary/2 cosines, then rotary/2 sines
};

// Multiplies every head by the orthonormal block Hadamard matrix of the largest power of two that
// divides head_dim, in place. It is its own inverse.
struct HadamardArgs {
  Tensor x;  // [T, heads, head_dim]
};

enum class Activation : uint8_t { kSilu, kGeluTanh };

// out = act(gate) * up.
struct GatedActivationArgs {
  Tensor gate;  // [T, F]
  Tensor up;    // [T, F]
  Tensor out;   // [T, F]
  Activation activation = Activation::kSilu;
};

// gate.out = act(gate's product) * up's product; up.out may be left unwritten. Neither accumulates.
struct GatedMatmulArgs {
  MatmulArgs gate;
  MatmulArgs up;  // of the same x
  Activation activation = Activation::kSilu;
};

// Expert weights of one layer; each span has one entry per expert.
struct MoeWeights {
  std::span<const Tensor> gate;  // [F, D] each
  std::span<const Tensor> up;    // [F, D] each
  std::span<const Tensor> down;  // [D, F] each
};

// Mixture of experts (Mixtral, Qwen3-MoE): probabilities are the softmax of the router's logits
// over all experts; the top_k largest are kept (ties: lower index) and, if normalize, divided by
// their sum.
struct MoeArgs {
  Tensor x;              // [T, D]
  Tensor router_logits;  // [T, experts] f32
  MoeWeights weights;
  Tensor out;  // [T, D]
  int top_k = 1;
  bool normalize = true;
  Activation activation = Activation::kSilu;
};

// Quantizes and stores the rows of one projection of this step. Group g takes columns
// [sum of earlier ranks, + rank_g) of x. slot = block id * block size + offset; a negative slot is
// skipped. Quantization: see LatentFormat.
struct LatentWriteArgs {
  Tensor x;             // [T, sum of ranks]
  Tensor slot_mapping;  // [T] i64
  LatentProjection projection;
  LatentPool pool;
};

// Causal attention over the latent cache for a ragged batch. Token i of sequence s (q row
// cu_seqlens[s] + i) stands at position p = context_lens[s] - (its query count) + i and sees the
// cached positions (p - window, p]; the tokens of this step are already written.
// Low-rank keys: k = up h (+ bias), then RMS norm (if k_norm), then RoPE, then q . k. Dense keys
// are cached after norm and RoPE (and after Hadamard, if the caller rotates; then q is rotated
// too). Values: weights are applied to cached rows, then up once per head (or the head's slice if
// dense), then + bias. The result of a query does not depend on the batch, on other queries or on
// the chunking.
struct LatentAttentionArgs {
  Tensor q;             // [T, q_heads, head_dim], after norm and RoPE
  Tensor out;           // [T, q_heads, head_dim]
  Tensor cu_seqlens;    // [S + 1] i32
  Tensor context_lens;  // [S] i32: tokens in the cache, this step's included
  Tensor block_tables;  // [S, max_blocks] i32; entries past ceil(context_len / block_size) unread
  LatentPool pool;
  LatentProjection key;
  LatentProjection value;
  Tensor key_bias;    // [kv_heads * head_dim] or undefined; low-rank keys only
  Tensor value_bias;  // [kv_heads * head_dim] or undefined; low-rank values only
  Tensor k_norm;      // [head_dim] or undefined; low-rank keys only
  float k_norm_eps = 1e-6f;
  float k_norm_offset = 0.0f;
  Tensor cos_sin;  // as RopeArgs, row t turning by t times row 1's angles; low-rank keys only
  int kv_heads = 0;
  float scale = 1.0f;
  int window = 0;  // 0: no sliding window

  // cu_seqlens and context_lens in host memory, for a device that plans its launches by them; when
  // empty it fetches them. A step of one query per sequence is planned without them.
  std::span<const int32_t> host_cu_seqlens, host_context_lens;
};

// out[i] = x[rows[i]].
struct GatherRowsArgs {
  Tensor x;     // [T, D]
  Tensor rows;  // [R] i32
  Tensor out;   // [R, D]
};

inline constexpr int kMaxLogprobs = 20;

// Chooses or scores one token per row. Order: raw log-softmax for the reported log-probabilities;
// logit_bias, penalties; temperature; top_k, top_p, min_p; Gumbel or inverse-CDF draw from a
// counter generator keyed by (seed, draw index), so that the draw does not depend on the batch.
struct SampleArgs {
  Tensor logits;  // [R, V] f32; may be overwritten

  // Per row, [R]:
  Tensor temperature;         // f32; 0 = greedy (ties: lowest id)
  Tensor top_k;               // i32; <= 0 = off
  Tensor top_p;               // f32; >= 1 = off
  Tensor min_p;               // f32; 0 = off
  Tensor seed;                // i64 (bit pattern of u64)
  Tensor draw_index;          // i64: number of tokens generated before this one
  Tensor forced_token;        // i32; >= 0: report this token instead of choosing one
  Tensor num_logprobs;        // i32; -1 = none wanted, 0..kMaxLogprobs = top entries wanted
  Tensor repetition_penalty;  // f32; 1 = off; over prompt and output tokens
  Tensor presence_penalty;    // f32; 0 = off; over output tokens
  Tensor frequency_penalty;   // f32; 0 = off; over output tokens

  // History of row r: history[history_offsets[r] .. history_offsets[r + 1]); the first
  // prompt_lens[r] of them are prompt tokens. Empty for rows without penalties.
  Tensor history;          // [H] i32
  Tensor history_offsets;  // [R + 1] i32
  Tensor prompt_lens;      // [R] i32

  // logits[r][bias_tokens[i]] += bias_values[i] for i in [bias_offsets[r], bias_offsets[r + 1]);
  // -inf bans a token.
  Tensor bias_tokens;   // [B] i32
  Tensor bias_values;   // [B] f32
  Tensor bias_offsets;  // [R + 1] i32

  // Bit t of word t / 32 of row r set = token t allowed. Undefined: all are. A row with
  // mask_rows[r] < 0 has no mask, otherwise it uses that row of mask.
  Tensor mask;       // [M, ceil(V / 32)] i32
  Tensor mask_rows;  // [R] i32

  // Outputs.
  Tensor tokens;      // [R] i32
  Tensor logprobs;    // [R] f32 of the token under the raw distribution; only if num_logprobs >= 0
  Tensor ranks;       // [R] i32: 1 + number of tokens with a larger raw logit; same condition
  Tensor top_tokens;  // [R, kMaxLogprobs] i32; first num_logprobs entries, descending
  Tensor top_logprobs;  // [R, kMaxLogprobs] f32
};

// Largest step that a backend must be ready for; scratch memory is taken once, in Reserve.
struct StepLimits {
  int max_tokens = 0;     // T
  int max_sequences = 0;  // S, R
  int max_context = 0;    // tokens per sequence
  int max_q_heads = 0;
  int max_kv_heads = 0;
  int max_head_dim = 0;
  int max_rank = 0;          // largest latent group
  int max_row_numbers = 0;   // largest sum of ranks of one projection
  int max_intermediate = 0;  // MLP or expert width
  int max_experts = 0;
  int hidden_size = 0;
  int vocab_size = 0;
};

// Copies of equal pieces of memory, such as cache blocks, between the device and host memory that
// AllocateHost gave. Each pair is (piece of the device, piece of the host).
struct PieceCopyArgs {
  std::byte* device = nullptr;
  std::byte* host = nullptr;
  int64_t piece_bytes = 0;
  std::span<const std::pair<int32_t, int32_t>> pieces;
  bool to_device = false;
};

// A device. One thread at a time calls ops (whoever runs the engine's steps); Allocate and Free are
// thread-safe.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;        // "cpu", "cuda:0"
  virtual std::string isa() const = 0;         // "avx512", "avx2", "portable", "sm_90", …
  virtual DType activation_dtype() const = 0;  // dtype of all activations
  virtual bool host_memory() const = 0;        // device pointers are host pointers
  // RunStep records steps, so steps of few different shapes are worth padding for.
  virtual bool replays_steps() const { return false; }

  // Memory, 64-byte aligned or better. Allocate throws std::bad_alloc.
  virtual Buffer Allocate(size_t bytes) = 0;
  virtual void Free(void* data, size_t bytes) = 0;
  virtual size_t FreeBytes() const = 0;   // memory that could still be taken
  virtual size_t TotalBytes() const = 0;  // memory of the device
  virtual void CopyToDevice(void* dst, const void* src, size_t bytes) = 0;
  virtual void CopyToHost(void* dst, const void* src, size_t bytes) = 0;
  // Between two places of the device that do not overlap; ordered with the ops.
  virtual void CopyOnDevice(void* dst, const void* src, size_t bytes) {
    const auto staging = std::make_unique<std::byte[]>(bytes);
    CopyToHost(staging.get(), src, bytes);
    CopyToDevice(dst, staging.get(), bytes);
  }
  virtual void Synchronize() = 0;

  // Host memory from which the device copies fast (page-locked where that exists), freed with the
  // last pointer. Throws std::bad_alloc.
  virtual std::shared_ptr<void> AllocateHost(size_t bytes) {
    void* data = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (data == nullptr) throw std::bad_alloc();
    return {data, std::free};
  }
  // Ordered with the ops; may return before the copies are made.
  virtual void CopyPieces(const PieceCopyArgs& args) {
    const auto bytes = static_cast<size_t>(args.piece_bytes);
    for (const auto& [device, host] : args.pieces) {
      std::byte* on_device = args.device + device * args.piece_bytes;
      std::byte* on_host = args.host + host * args.piece_bytes;
      if (args.to_device) {
        CopyToDevice(on_device, on_host, bytes);
      } else {
        CopyToHost(on_host, on_device, bytes);
      }
    }
  }

  // Takes the scratch memory that ops up to these limits need; returns its bytes.
  virtual size_t Reserve(const StepLimits& limits) = 0;

  // An up factor of low-rank keys, prepared for rebuilding keys from latents of this format, or an
  // empty buffer where LatentAttention wants nothing but the factor itself. May round the factor:
  // by at most 1/254 of the largest number of a row, or of the two rows that rotate together, where
  // latents are much coarser than that.
  virtual Buffer PackUp(const Tensor& up /* [heads * head_dim, rank] */, LatentFormat format,
                        int head_dim, int rotary_dim) {
    return Buffer();
  }

  // The matrix of a Matmul or Moe, rounded to a format and packed for this device; its tensor has
  // DType kInt8Groups or kInt4Groups and the same shape. Empty where the device has no kernels for
  // the format, or none for matrices of this depth: then weight is to be used as it is.
  virtual bool HasWeightFormat(WeightFormat format) const {
    return format == WeightFormat::kStored;
  }
  virtual Buffer PackWeight(const Tensor& weight /* [N, K] */, WeightFormat format) {
    return Buffer();
  }

  // To be called once by the thread that will run the steps, on that thread.
  virtual void EnterThread() {}

  // Runs fn, which calls ops; a backend that can records it under key and replays it: what fn does
  // may depend on the key and on the contents of device memory only. Key 0: never recorded.
  virtual void RunStep(uint64_t key, const std::function<void()>& fn) = 0;

  virtual void Embedding(const EmbeddingArgs& args) = 0;
  virtual void RmsNorm(const RmsNormArgs& args) = 0;
  virtual void Matmul(const MatmulArgs& args) = 0;
  // Products of the same x, which a backend may do together; no out is another's x or out.
  virtual void Matmuls(std::span<const MatmulArgs> products) {
    for (const MatmulArgs& args : products) Matmul(args);
  }
  // Products of x = norm.out, which may be left unwritten; no out is norm.x.
  virtual void NormMatmuls(const RmsNormArgs& norm, std::span<const MatmulArgs> products) {
    RmsNorm(norm);
    Matmuls(products);
  }
  virtual void NormGatedMatmul(const RmsNormArgs& norm, const GatedMatmulArgs& args) {
    const MatmulArgs products[] = {args.gate, args.up};
    NormMatmuls(norm, products);
    GatedActivation({.gate = args.gate.out,
                     .up = args.up.out,
                     .out = args.gate.out,
                     .activation = args.activation});
  }
  virtual void Add(const AddArgs& args) = 0;
  virtual void Rope(const RopeArgs& args) = 0;
  virtual void Hadamard(const HadamardArgs& args) = 0;
  virtual void GatedActivation(const GatedActivationArgs& args) = 0;
  virtual void Moe(const MoeArgs& args) = 0;
  virtual void LatentWrite(const LatentWriteArgs& args) = 0;
  // Keys and values of the same tokens.
  virtual void LatentWrites(const LatentWriteArgs& key, const LatentWriteArgs& value) {
    LatentWrite(key);
    LatentWrite(value);
  }
  // The same, and RoPE of the tokens' queries, which are neither key.x nor value.x.
  virtual void RopeAndWrite(const RopeArgs& query, const LatentWriteArgs& key,
                            const LatentWriteArgs& value) {
    Rope(query);
    LatentWrites(key, value);
  }
  virtual void LatentAttention(const LatentAttentionArgs& args) = 0;
  virtual void GatherRows(const GatherRowsArgs& args) = 0;
  virtual void Sample(const SampleArgs& args) = 0;
};

struct BackendOptions {
  std::string device = "auto";  // auto | cpu | cuda:N
  // auto | portable | avx2 | avx512 | avx512_vnni | avx512_bf16; for tests and debugging.
  std::string cpu_isa = "auto";
  int cpu_threads = 0;  // 0: all cores that this process may use, or those of cpu_affinity
  // CPUs such as "0-3,8": thread i of the CPU backend is bound to the i-th. Empty: not bound.
  std::string cpu_affinity;
  // Where the CPU backend's memory lies: default (on the node that first writes it) | interleave.
  std::string cpu_numa = "default";
  // Activation dtype on CUDA devices: kBF16 (fast) or kF32 (exact).
  DType cuda_activations = DType::kBF16;
};

// Throws std::runtime_error naming the option when the device or instruction set is not there.
std::unique_ptr<Backend> CreateBackend(const BackendOptions& options);

}  // namespace palu
