// Chooses the attention kernel. A step in which every sequence has one query is a decode: its
// context is split over blocks and the splits are combined. Anything else runs unsplit.
#include "kernels/cuda/latent_params.cuh"

namespace palu::cuda {
namespace {

AttentionParams ParamsOf(const LatentAttentionArgs& args) {
  AttentionParams p{};
  p.q = args.q.data;
  p.q_token_stride = args.q.stride[0];
  p.q_head_stride = args.q.stride[1];
  p.out = args.out.data;
  p.out_token_stride = args.out.stride[0];
  p.out_head_stride = args.out.stride[1];
  p.cu_seqlens = args.cu_seqlens.ptr<int32_t>();
  p.context_lens = args.context_lens.ptr<int32_t>();
  p.block_tables = args.block_tables.ptr<int32_t>();
  p.table_stride = args.block_tables.stride[0];
  p.pool = args.pool.data;
  p.block_bytes = args.pool.block_bytes;
  p.block_size = args.pool.block_size;
  p.key_bias = args.key_bias.data;
  p.key_bias_type = args.key_bias.dtype;
  p.value_bias = args.value_bias.data;
  p.value_bias_type = args.value_bias.dtype;
  p.k_norm = args.k_norm.data;
  p.k_norm_type = args.k_norm.dtype;
  p.k_norm_eps = args.k_norm_eps;
  p.k_norm_offset = args.k_norm_offset;
  p.cos_sin = args.cos_sin.ptr<float>();
  p.rotary = args.cos_sin.defined() ? static_cast<int>(args.cos_sin.dim(1)) : 0;
  p.tokens = args.q.dim(0);
  p.sequences = args.context_lens.dim(0);
  p.q_heads = args.q.dim(1);
  p.kv_heads = args.kv_heads;
  p.head_dim = args.q.dim(2);
  p.window = args.window;
  p.scale = args.scale;
  p.activations = args.q.dtype;
  p.key = ViewOf(args.key);
  p.value = ViewOf(args.value);
  return p;
}

}  // namespace

size_t AttentionScratchBytes(const Context&, const StepLimits& limits) {
  const size_t one_split = static_cast<size_t>(limits.max_sequences) * limits.max_q_heads *
                           (limits.max_rank + 4) * sizeof(float);
  return one_split > kPartialBytes ? one_split : kPartialBytes;
}

void LatentAttention(Context& context, const LatentAttentionArgs& args) {
  if (args.q.dim(0) == 0) return;
  AttentionParams params = ParamsOf(args);
  const bool decode = params.tokens == params.sequences;
  if (decode && LaunchDecode(context, params)) return;
  LaunchGeneral(context, params, decode);
}

}  // namespace palu::cuda
