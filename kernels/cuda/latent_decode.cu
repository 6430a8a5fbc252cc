// Chooses an instance of the fast decode kernel and lays out its shared memory.
#include "kernels/cuda/decode_launch.cuh"

namespace palu::cuda {
namespace {

constexpr int64_t kMaxOffset = (int64_t{1} << 31) - (1 << 20);  // in a block
constexpr int kTokensPerSplit = 32;  // at least, where the context is long enough
constexpr int kMaxValueTiles = 16;
constexpr int kMaxKeyBlocks = 4;
// Reads of padding behind the last row stay inside.
constexpr size_t kSlack = 256;

// All groups alike and in the formats that the kernel reads.
bool Uniform(const ProjectionView& projection, bool quantized) {
  const SegmentView& first = projection.groups[0];
  for (int g = 0; g < projection.num_groups; ++g) {
    const SegmentView& segment = projection.groups[g];
    if (segment.rank != first.rank || segment.format != first.format) return false;
    if (segment.codes_offset % 16 != 0 || segment.codes_offset > kMaxOffset) return false;
    if (quantized && (segment.scales_offset % 16 != 0 || segment.scales_offset > kMaxOffset)) {
      return false;
    }
    if (projection.dense) continue;
    if (segment.up_type != first.up_type || segment.up_type == DType::kF32) return false;
    if (reinterpret_cast<uintptr_t>(segment.up) % 16 != 0 || segment.up_stride % 8 != 0) {
      return false;
    }
  }
  return first.rank % 8 == 0;
}

bool ServesFormats(const AttentionParams& p) {
  const LatentFormat key = p.key.groups[0].format;
  const LatentFormat value = p.value.groups[0].format;
  const bool quantized = IsQuantized(key);
  if (quantized != IsQuantized(value)) return false;
  if (!quantized && key != value) return false;
  if (!quantized && key != LatentFormat::kBF16 && key != LatentFormat::kFp8) return false;
  return Uniform(p.key, quantized) && Uniform(p.value, quantized);
}

bool Serves(const AttentionParams& p) {
  if (p.activations != DType::kBF16) return false;
  if (p.q_heads / p.kv_heads > kMaxRepeat) return false;
  if (p.head_dim != 64 && p.head_dim != 96 && p.head_dim != 128 && p.head_dim != 256) return false;
  if (reinterpret_cast<uintptr_t>(p.q) % 16 != 0 || p.q_token_stride % 8 != 0 ||
      p.q_head_stride % 8 != 0) {
    return false;
  }
  if (p.block_size % kDecodeUnit != 0 || (p.block_size & (p.block_size - 1)) != 0 ||
      p.block_bytes % 16 != 0 || reinterpret_cast<uintptr_t>(p.pool) % 16 != 0) {
    return false;
  }
  if (!ServesFormats(p)) return false;
  if (p.key.dense != p.value.dense) return false;
  if (p.key.dense) return true;
  if (p.head_dim != p.rotary || p.k_norm != nullptr) return false;
  return p.key.groups[0].rank <= kMaxKeyBlocks * 32 &&
         p.value.groups[0].rank <= kMaxValueTiles * 16;
}

// Groups that consecutive heads of a block can touch.
int GroupsOf(const ProjectionView& projection, int heads) {
  const int s = projection.heads_per_group;
  const int count = heads % s == 0 ? heads / s : s % heads == 0 ? 1 : heads / s + 2;
  return count < projection.num_groups ? count : projection.num_groups;
}

// Bytes between the rows of a stage: as in the cache where bulk copies pay for the bank conflicts
// that they bring (bf16, 64 bytes past a multiple of 128: four rows in one bank, otherwise eight).
// Else rows are read as matrices, but low-rank keys sixteen bytes by pairs of rows, and of fp8 keys
// eight bytes by four rows, values four bytes by every other row.
int StrideOf(const AttentionParams& p, bool key, int row_bytes, int blocks) {
  const LatentFormat format = p.key.groups[0].format;
  if (IsQuantized(format)) return row_bytes;
  if (format == LatentFormat::kFp8) {
    if (!p.key.dense || row_bytes % 64 != 0) return row_bytes;
    return row_bytes + (key ? 32 : 16);
  }
  const bool whole = !key || p.key.dense || row_bytes == blocks * 64;
  if (whole && row_bytes % 128 == 64) return row_bytes;
  if (!key || p.key.dense) return row_bytes + 16;
  return blocks * 64 + (blocks % 2 == 0 ? 64 : 0);
}

// False when a block would need parts of rows.
bool LaySide(const AttentionParams& p, bool key, const DecodeLayout& layout, int blocks,
             SideLayout* side) {
  const ProjectionView& projection = key ? p.key : p.value;
  const SegmentView& segment = projection.groups[0];
  const bool quantized = IsQuantized(segment.format);
  side->row_bytes = segment.row_bytes;
  if (projection.dense) {
    side->head_bytes = p.head_dim * Bits(segment.format) / 8;
    const int s = projection.heads_per_group;
    if (layout.heads % s != 0 || (segment.format == LatentFormat::kInt3 && s > 1)) return false;
  }
  side->stride = StrideOf(p, key, segment.row_bytes, blocks);
  if (side->stride != side->row_bytes && side->row_bytes % 16 != 0) return false;
  side->row_chunks = side->row_bytes / 16;
  if (side->row_chunks > 0) {
    side->column_step = kWarp % side->row_chunks;
    side->step_bytes = kWarp * 16 + kWarp / side->row_chunks * (side->stride - side->row_bytes);
  }
  const int tokens = layout.units * kDecodeUnit;
  side->scales = (tokens * side->stride + 15) / 16 * 16;
  side->group_bytes = side->scales + (quantized ? tokens * kScaleBytes : 0);
  return true;
}

// How a block of this many KV heads uses its shared memory; 0 stages when too few fit.
DecodeLayout LayoutOf(const AttentionParams& p, const DecodeInstance& instance, int heads,
                      int units, size_t limit, size_t* bytes) {
  DecodeLayout layout{};
  layout.heads = heads;
  layout.units = units;
  const int shares = units / instance.units;
  layout.streams = shares == 0 ? 1 : kDecodeWarps / heads < shares ? kDecodeWarps / heads : shares;
  while ((1 << layout.block_shift) < p.block_size) ++layout.block_shift;
  if (!LaySide(p, true, layout, instance.blocks, &layout.key)) return layout;
  if (!LaySide(p, false, layout, instance.blocks, &layout.value)) return layout;
  const int value_rank = p.value.dense ? p.head_dim : p.value.groups[0].rank;
  const bool bf16_rows = p.value.groups[0].format == LatentFormat::kBF16;
  layout.value_tiles = bf16_rows ? (value_rank + 15) / 16 : (value_rank + 31) / 32 * 2;
  layout.value.begin = GroupsOf(p.key, heads) * layout.key.group_bytes;
  layout.angles_begin = layout.value.begin + GroupsOf(p.value, heads) * layout.value.group_bytes;
  layout.stage_bytes = layout.angles_begin + units * kDecodeUnit * instance.angle_stride;
  layout.stage_bytes = (layout.stage_bytes + 127) / 128 * 128;
  layout.factor_begin = Ring::kBytes;
  layout.bias_begin = layout.factor_begin + heads * instance.factor_bytes;
  const bool biased = !p.key.dense && p.key_bias != nullptr;
  layout.bias_bytes = biased ? p.q_heads / p.kv_heads * p.head_dim * 2 : 0;
  layout.ring_begin = layout.bias_begin + heads * layout.bias_bytes;
  layout.clear_ring = !p.key.dense && bf16_rows && p.key.groups[0].rank != instance.blocks * 32;
  if (layout.ring_begin + kSlack > limit) return layout;
  const size_t stages = (limit - layout.ring_begin - kSlack) / layout.stage_bytes;
  layout.stages = static_cast<int>(stages < kDecodeMaxStages ? stages : kDecodeMaxStages);
  *bytes = layout.ring_begin + layout.stages * layout.stage_bytes + kSlack;
  return layout;
}

}  // namespace

DecodeLayout LayoutFor(const AttentionParams& p, const DecodeInstance& instance, size_t limit,
                       size_t* bytes) {
  int heads = kDecodeWarps;
  while (heads > p.kv_heads) heads /= 2;
  for (const int least : {4, 3, 2}) {
    for (int h = heads; h > 0; h /= 2) {
      for (int units = instance.most_units; units > 0; units /= 2) {
        if (least > 2 && units < instance.units * (kDecodeWarps / h)) break;
        const DecodeLayout layout = LayoutOf(p, instance, h, units, limit, bytes);
        if (layout.stages >= least) return layout;
      }
      if (least > 2 && instance.factor_bytes == 0) break;
    }
  }
  return DecodeLayout{};
}

int SplitsFor(const Context& context, const AttentionParams& p, int chunks, int stage_tokens) {
  const int64_t blocks = static_cast<int64_t>(p.sequences) * chunks;
  int64_t splits = context.multiprocessors / blocks;
  for (int64_t waves = 1; waves <= 4; ++waves) {
    splits = waves * context.multiprocessors / blocks;
    if (splits * blocks * 10 >= waves * context.multiprocessors * 9) break;
  }
  const int64_t longest = p.table_stride * p.block_size;
  const int64_t useful =
      CeilDiv(longest, stage_tokens > kTokensPerSplit ? stage_tokens : kTokensPerSplit);
  if (splits > useful) splits = useful;
  return static_cast<int>(splits < 1 ? 1 : splits);
}

bool LaunchDecode(Context& context, AttentionParams& p) {
  if (context.capability < 90 || !Serves(p)) return false;
  const LatentFormat key = p.key.groups[0].format;
  if (p.head_dim != 64 && p.head_dim != 128) return LaunchDecodeDims(context, p);
  if (key == LatentFormat::kBF16) return LaunchDecodeBF16(context, p);
  if (key == LatentFormat::kFp8) return LaunchDecodeFp8(context, p);
  const bool four = key == LatentFormat::kInt4 && p.value.groups[0].format == key;
  return four && p.head_dim == 128 ? LaunchDecodeFour(context, p) : LaunchDecodeCodes(context, p);
}

}  // namespace palu::cuda
