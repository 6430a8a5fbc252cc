// Chooses an instance of the fast decode kernel, lays out its shared memory and launches it.
#include "kernels/cuda/latent_decode.cuh"

namespace palu::cuda {
namespace {

constexpr int64_t kMaxOffset = (int64_t{1} << 31) - (1 << 20);  // in a block, fits CopyPlan
constexpr int kTokensPerSplit = 128;  // at least, where the context is long enough

// All groups alike and in the formats that the kernel reads.
bool Uniform(const ProjectionView& projection, bool quantized) {
  const SegmentView& first = projection.groups[0];
  for (int g = 0; g < projection.num_groups; ++g) {
    const SegmentView& segment = projection.groups[g];
    if (segment.rank != first.rank || segment.format != first.format) return false;
    if (segment.up_type != first.up_type || segment.codes_offset % 16 != 0) return false;
    if (segment.codes_offset > kMaxOffset || segment.scales_offset > kMaxOffset) return false;
    if (quantized && segment.scales_offset % 16 != 0) return false;
    if (reinterpret_cast<uintptr_t>(segment.up) % 16 != 0 || segment.up_stride % 8 != 0) {
      return false;
    }
  }
  return first.rank % 8 == 0;
}

bool Serves(const AttentionParams& p) {
  if (p.activations != DType::kBF16 || p.key.dense || p.value.dense) return false;
  if (p.q_heads / p.kv_heads > kMaxRepeat) return false;
  if (p.head_dim != p.rotary || (p.head_dim != 64 && p.head_dim != 128)) return false;
  if (p.key_bias != nullptr || p.k_norm != nullptr) return false;
  if (p.block_size % kDecodeUnit != 0 || (p.block_size & (p.block_size - 1)) != 0 ||
      p.block_bytes % 16 != 0)
    return false;
  if (reinterpret_cast<uintptr_t>(p.pool) % 16 != 0) return false;
  const LatentFormat key = p.key.groups[0].format;
  const LatentFormat value = p.value.groups[0].format;
  const bool quantized = IsQuantized(key);
  if (quantized != IsQuantized(value)) return false;
  if (!quantized && (key != LatentFormat::kBF16 || value != LatentFormat::kBF16)) return false;
  if (!Uniform(p.key, quantized) || !Uniform(p.value, quantized)) return false;
  const DType factor = p.key.groups[0].up_type;
  if (factor == DType::kF32 || (factor == DType::kF16 && !quantized)) return false;
  const int key_rank = p.key.groups[0].rank;
  return (key_rank == 32 || key_rank == 64) && p.value.groups[0].rank <= 256;
}

// Groups that consecutive heads of a block can touch.
int GroupsOf(const ProjectionView& projection, int heads) {
  const int s = projection.heads_per_group;
  const int count = heads % s == 0 ? heads / s : heads / s + 2;
  return count < projection.num_groups ? count : projection.num_groups;
}

// How a block of this many KV heads uses its shared memory; 0 stages when not even two fit.
DecodeLayout LayoutOf(const AttentionParams& p, int heads, size_t limit, size_t* bytes) {
  const SegmentView& key = p.key.groups[0];
  const SegmentView& value = p.value.groups[0];
  const bool quantized = IsQuantized(key.format);
  const int scales = quantized ? kDecodeUnit * kScaleBytes : 0;
  DecodeLayout layout{};
  layout.heads = heads;
  while ((1 << layout.block_shift) < p.block_size) ++layout.block_shift;
  layout.streams = kDecodeWarps / heads;
  if (layout.streams > kDecodeMaxStreams) layout.streams = kDecodeMaxStreams;
  layout.key_scales = kDecodeUnit * key.row_bytes;
  layout.key_bytes = layout.key_scales + scales;
  layout.value_stride = quantized ? value.row_bytes : value.row_bytes + 16;
  layout.value_scales = kDecodeUnit * layout.value_stride;
  layout.value_bytes = layout.value_scales + scales;
  layout.values_begin = GroupsOf(p.key, layout.heads) * layout.key_bytes;
  layout.unit_bytes = layout.values_begin + GroupsOf(p.value, layout.heads) * layout.value_bytes;
  const int angle_stride = p.head_dim == 128 ? kAngleStride<128> : kAngleStride<64>;
  layout.angles_begin = layout.streams * layout.unit_bytes;
  layout.stage_bytes = layout.angles_begin + layout.streams * kDecodeUnit * angle_stride;
  layout.value_tiles = quantized ? (value.rank + 31) / 32 * 2 : (value.rank + 15) / 16;
  layout.plan_begin = kDecodeMaxBlocks * static_cast<int>(sizeof(int32_t));
  layout.chunks = layout.unit_bytes / 16;
  layout.factor_begin = layout.plan_begin + layout.chunks * static_cast<int>(sizeof(CopyPlan));
  const int factor = key.rank == 32 ? 0 : heads * p.head_dim * key.rank * 2;
  layout.ring_begin = layout.factor_begin + factor;
  // Reads of padding behind the last row stay inside.
  const size_t slack = 128;
  if (layout.ring_begin + slack + 2 * layout.stage_bytes > limit) return layout;
  const size_t stages = (limit - layout.ring_begin - slack) / layout.stage_bytes;
  layout.stages = static_cast<int>(stages < kDecodeMaxStages ? stages : kDecodeMaxStages);
  *bytes = layout.ring_begin + layout.stages * layout.stage_bytes + slack;
  return layout;
}

DecodeLayout LayoutFor(const AttentionParams& p, size_t limit, size_t* bytes) {
  int heads = p.kv_heads < kDecodeWarps ? p.kv_heads : kDecodeWarps;
  DecodeLayout layout = LayoutOf(p, heads, limit, bytes);
  while (layout.stages == 0 && heads > 1) {
    heads /= 2;
    layout = LayoutOf(p, heads, limit, bytes);
  }
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

template <int kHeadDim, int kRank, int kValueTiles, bool kQuantized>
bool Launch(Context& context, AttentionParams& p) {
  size_t bytes = 0;
  const DecodeLayout layout = LayoutFor(p, context.max_shared_bytes, &bytes);
  if (layout.stages == 0 || layout.value_tiles > kValueTiles) return false;
  const int chunks = static_cast<int>(CeilDiv(p.kv_heads, layout.heads));
  const int splits = SplitsFor(context, p, chunks);
  p.splits = splits * layout.streams;
  p.partial_stride = static_cast<int>(CeilDiv(p.value.groups[0].rank, 4)) * 4 + 4;
  const size_t partial =
      static_cast<size_t>(p.sequences) * p.q_heads * p.splits * p.partial_stride * sizeof(float);
  if (partial > kPartialBytes && splits > 1) return false;
  p.partial = static_cast<float*>(context.Scratch(partial));
  const auto kernel = DecodeKernel<kHeadDim, kRank, kValueTiles, kQuantized>;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "latent_decode");
  kernel<<<dim3(splits, chunks, p.sequences), kDecodeThreads, bytes, context.stream.get()>>>(
      p, layout);
  CheckLaunch("latent_decode");
  LaunchCombine(context, p);
  return true;
}

template <int kHeadDim, bool kQuantized>
bool LaunchFor(Context& context, AttentionParams& p) {
  const int rank = p.value.groups[0].rank;
  if (p.key.groups[0].rank == 64) return Launch<kHeadDim, 64, 16, kQuantized>(context, p);
  return rank <= 128 ? Launch<kHeadDim, 32, 8, kQuantized>(context, p)
                     : Launch<kHeadDim, 32, 16, kQuantized>(context, p);
}

}  // namespace

bool LaunchDecode(Context& context, AttentionParams& p) {
  if (context.capability < 90 || !Serves(p)) return false;
  const bool quantized = IsQuantized(p.key.groups[0].format);
  if (p.head_dim == 128) {
    return quantized ? LaunchFor<128, true>(context, p) : LaunchFor<128, false>(context, p);
  }
  return quantized ? LaunchFor<64, true>(context, p) : LaunchFor<64, false>(context, p);
}

}  // namespace palu::cuda
