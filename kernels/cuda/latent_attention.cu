// Chooses the attention kernels of a step: sequences of one query at its head are decoded (their
// context is split over blocks and the splits are combined), the rest is prefill. In f32 the
// general kernel does it all.
#include <vector>

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

// Sequences [first, first + count) of the step; rows of q and out keep their numbers.
AttentionParams Slice(const AttentionParams& all, int first, int count, int tokens) {
  AttentionParams part = all;
  part.cu_seqlens += first;
  part.context_lens += first;
  part.block_tables += first * all.table_stride;
  part.sequences = count;
  part.tokens = tokens;
  return part;
}

void Decode(Context& context, AttentionParams params) {
  if (!LaunchDecode(context, params)) LaunchGeneral(context, params, true);
}

// Steps with prompts in them: the lengths decide on the launches.
void AttendMixed(Context& context, const AttentionParams& params, const HostLengths& lengths) {
  int decodes = 0;
  while (decodes < params.sequences && lengths.cu_seqlens[decodes + 1] == decodes + 1) ++decodes;
  if (decodes > 0) Decode(context, Slice(params, 0, decodes, decodes));
  if (decodes == params.sequences) return;
  AttentionParams rest =
      Slice(params, decodes, params.sequences - decodes, params.tokens - decodes);
  const HostLengths rest_lengths{lengths.cu_seqlens + decodes, lengths.context_lens + decodes};
  if (!LaunchPrefill(context, rest, rest_lengths)) LaunchGeneral(context, rest, false);
}

}  // namespace

size_t AttentionScratchBytes(const Context& context, const StepLimits& limits) {
  const size_t one_split = static_cast<size_t>(limits.max_sequences) * limits.max_q_heads *
                           (limits.max_rank + 4) * sizeof(float);
  const size_t decode = one_split > kPartialBytes ? one_split : kPartialBytes;
  const size_t prefill = PrefillScratchBytes(context, limits);
  return decode > prefill ? decode : prefill;
}

void LatentAttention(Context& context, const LatentAttentionArgs& args) {
  if (args.q.dim(0) == 0) return;
  AttentionParams params = ParamsOf(args);
  if (params.activations == DType::kF32) {
    return LaunchGeneral(context, params, params.tokens == params.sequences);
  }
  if (params.tokens == params.sequences) return Decode(context, params);
  if (!args.host_cu_seqlens.empty()) {
    return AttendMixed(context, params,
                       {args.host_cu_seqlens.data(), args.host_context_lens.data()});
  }
  std::vector<int32_t> cu_seqlens(params.sequences + 1), context_lens(params.sequences);
  const auto fetch = [&](std::vector<int32_t>* to, const int32_t* from) {
    Check(cudaMemcpyAsync(to->data(), from, to->size() * sizeof(int32_t), cudaMemcpyDeviceToHost,
                          context.stream.get()),
          "lengths");
  };
  fetch(&cu_seqlens, params.cu_seqlens);
  fetch(&context_lens, params.context_lens);
  context.stream.Synchronize();
  AttendMixed(context, params, {cu_seqlens.data(), context_lens.data()});
}

}  // namespace palu::cuda
