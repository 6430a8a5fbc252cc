// Chooses an instance of the fast decode kernel, lays out its shared memory and launches it.
#include "kernels/cuda/latent_decode.cuh"

namespace palu::cuda {
namespace {

constexpr int kMaxStages = 6;
constexpr int kTokensPerSplit = 128;  // at least, where the context is long enough

// All groups alike and in the formats that the kernel reads.
bool Uniform(const ProjectionView& projection, bool quantized) {
  const SegmentView& first = projection.groups[0];
  for (int g = 0; g < projection.num_groups; ++g) {
    const SegmentView& segment = projection.groups[g];
    if (segment.rank != first.rank || segment.format != first.format) return false;
    if (segment.up_type != first.up_type || segment.codes_offset % 16 != 0) return false;
    if (quantized && segment.scales_offset % 16 != 0) return false;
    if (reinterpret_cast<uintptr_t>(segment.up) % 16 != 0 || segment.up_stride % 8 != 0) {
      return false;
    }
  }
  return first.rank % 8 == 0;
}

bool Serves(const AttentionParams& p) {
  if (p.activations != DType::kBF16 || p.key.dense || p.value.dense) return false;
  if (p.head_dim != p.rotary || (p.head_dim != 64 && p.head_dim != 128)) return false;
  if (p.key_bias != nullptr || p.k_norm != nullptr) return false;
  if (p.block_size % kDecodeTile != 0 || p.block_bytes % 16 != 0) return false;
  if (reinterpret_cast<uintptr_t>(p.pool) % 16 != 0) return false;
  const LatentFormat key = p.key.groups[0].format;
  const LatentFormat value = p.value.groups[0].format;
  const bool quantized = IsQuantized(key);
  if (quantized != IsQuantized(value)) return false;
  if (!quantized && (key != LatentFormat::kBF16 || value != LatentFormat::kBF16)) return false;
  if (!Uniform(p.key, quantized) || !Uniform(p.value, quantized)) return false;
  if (p.key.groups[0].up_type == DType::kF32) return false;
  const int key_rank = p.key.groups[0].rank;
  return (key_rank == 32 || key_rank == 64) && p.value.groups[0].rank <= 256;
}

// Shared memory for warps query heads; 0 stages when even two do not fit.
DecodeLayout LayoutFor(const AttentionParams& p, int warps, size_t limit, size_t* bytes) {
  const SegmentView& key = p.key.groups[0];
  const SegmentView& value = p.value.groups[0];
  const bool quantized = IsQuantized(key.format);
  const int repeat = p.q_heads / p.kv_heads;
  const int heads = (warps + repeat - 1) / repeat + (warps % repeat == 0 ? 0 : 1);
  const auto groups = [&](const ProjectionView& projection) {
    const int s = projection.heads_per_group;
    const int count = heads % s == 0 ? heads / s : heads / s + 2;
    return count < projection.num_groups ? count : projection.num_groups;
  };
  const int scales = quantized ? kDecodeTile * kScaleBytes : 0;
  DecodeLayout layout{};
  layout.key_scales = kDecodeTile * key.row_bytes;
  layout.key_bytes = layout.key_scales + scales;
  layout.value_stride = quantized ? value.row_bytes : value.row_bytes + 16;
  layout.value_scales = kDecodeTile * layout.value_stride;
  layout.value_bytes = layout.value_scales + scales;
  layout.values_begin = groups(p.key) * layout.key_bytes;
  layout.stage_bytes = layout.values_begin + groups(p.value) * layout.value_bytes;
  layout.value_tiles = quantized ? (value.rank + 31) / 32 * 2 : (value.rank + 15) / 16;
  const int items = groups(p.key) + groups(p.value);
  layout.parts = items >= 2 * warps ? 1 : items >= warps ? 2 : 4;
  const int angles = p.head_dim == 128 ? kAngleBytes<128> : kAngleBytes<64>;
  layout.ring_begin = angles + kDecodeMaxBlocks * static_cast<int>(sizeof(int32_t));
  // Reads of padding behind the last row stay inside.
  const size_t slack = 64;
  const size_t factor = static_cast<size_t>(warps) * p.head_dim * key.rank * 2;
  const size_t room = limit - layout.ring_begin - slack;
  if (factor > room) return layout;
  const size_t stages = room / layout.stage_bytes;
  layout.stages = stages >= kMaxStages ? kMaxStages : stages >= 4 ? 4 : stages >= 3 ? 3 : 0;
  const size_t ring = static_cast<size_t>(layout.stages) * layout.stage_bytes;
  *bytes = layout.ring_begin + (ring > factor ? ring : factor) + slack;
  return layout;
}

// As many splits as fill the device in whole waves.
int SplitsFor(const Context& context, const AttentionParams& p, int chunks) {
  const int64_t blocks = static_cast<int64_t>(p.sequences) * chunks;
  int64_t splits = context.multiprocessors / blocks;
  for (int64_t waves = 1; waves <= 4; ++waves) {
    splits = waves * context.multiprocessors / blocks;
    if (splits * blocks * 10 >= waves * context.multiprocessors * 9) break;
  }
  const int64_t longest = p.table_stride * p.block_size;
  const int64_t useful = CeilDiv(longest, kTokensPerSplit);
  if (splits > useful) splits = useful;
  const int64_t table = CeilDiv(p.table_stride, kDecodeMaxBlocks - 2);
  if (splits < table) splits = table;
  return static_cast<int>(splits < 1 ? 1 : splits);
}

template <int kHeadDim, int kRank, int kValueTiles, int kWarps, bool kQuantized>
bool Launch(Context& context, AttentionParams& p) {
  size_t bytes = 0;
  const DecodeLayout layout = LayoutFor(p, kWarps, context.max_shared_bytes, &bytes);
  if (layout.stages == 0 || layout.value_tiles > kValueTiles) return false;
  const int chunks = static_cast<int>(CeilDiv(p.q_heads, kWarps));
  p.splits = SplitsFor(context, p, chunks);
  p.partial_stride = static_cast<int>(CeilDiv(p.value.groups[0].rank, 4)) * 4 + 4;
  const size_t partial =
      static_cast<size_t>(p.sequences) * p.q_heads * p.splits * p.partial_stride * sizeof(float);
  if (partial > kPartialBytes && p.splits > 1) return false;
  p.partial = static_cast<float*>(context.Scratch(partial));
  const auto kernel = DecodeKernel<kHeadDim, kRank, kValueTiles, kWarps, kQuantized>;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(context.max_shared_bytes)),
        "latent_decode");
  kernel<<<dim3(p.splits, chunks, p.sequences), kWarps * kWarp, bytes, context.stream.get()>>>(
      p, layout);
  CheckLaunch("latent_decode");
  LaunchCombine(context, p);
  return true;
}

template <int kHeadDim, bool kQuantized>
bool LaunchFor(Context& context, AttentionParams& p) {
  const int rank = p.value.groups[0].rank;
  if (p.key.groups[0].rank == 64) return Launch<kHeadDim, 64, 16, 8, kQuantized>(context, p);
  if (rank <= 96 && p.q_heads % 16 == 0 && Launch<kHeadDim, 32, 6, 16, kQuantized>(context, p)) {
    return true;
  }
  return Launch<kHeadDim, 32, 16, 8, kQuantized>(context, p);
}

}  // namespace

bool LaunchDecode(Context& context, AttentionParams& p) {
  if (!Serves(p)) return false;
  const bool quantized = IsQuantized(p.key.groups[0].format);
  if (p.head_dim == 128) {
    return quantized ? LaunchFor<128, true>(context, p) : LaunchFor<128, false>(context, p);
  }
  return quantized ? LaunchFor<64, true>(context, p) : LaunchFor<64, false>(context, p);
}

}  // namespace palu::cuda
