// Keys and values out of the latent cache for prefill attention: once per chunk, in bf16. A block
// owns 64 tokens of one KV head of one projection: latents are unpacked to bf16, multiplied by the
// head's factor on tensor cores, and bias, norm and RoPE follow in f32. Dense rows are unpacked
// only.
#include "kernels/cuda/latent_prefill.cuh"
#include "kernels/cuda/mma.cuh"

namespace palu::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDepth = 64;  // latent numbers at a time
constexpr int kStride = kDepth + 8;
constexpr int kUnit = 8;  // numbers that a thread unpacks at a time

// One token's row in the cache.
struct Row {
  const uint8_t* numbers;
  float scale, zero;
};

template <int kHeadDim>
struct Shared {
  Row rows[kRebuildTokens];
  union {
    struct {
      bf16 latents[kRebuildTokens][kStride];
      bf16 factor[kHeadDim][kStride];
    } in;
    float out[kRebuildTokens][kHeadDim + 4];
  };
};

struct Tile {
  int head, group, in_group;
  int first;   // token in the cache
  int tokens;  // of this tile
  int64_t row;
};

template <typename T>
__device__ void UnpackFloats(const uint8_t* numbers, int i, int count, float (&out)[kUnit]) {
  const auto* from = reinterpret_cast<const T*>(numbers) + i;
  constexpr int kParts = sizeof(T) * kUnit / 16;
  if (count == kUnit && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const auto v = reinterpret_cast<const Vec<T>*>(from)[part];
#pragma unroll
      for (int j = 0; j < Vec<T>::kCount; ++j) out[part * Vec<T>::kCount + j] = ToFloat(v.v[j]);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < kUnit; ++j) out[j] = j < count ? ToFloat(from[j]) : 0.0f;
}

__device__ void UnpackFp8(const uint8_t* numbers, int i, int count, float (&out)[kUnit]) {
  const uint64_t codes = *reinterpret_cast<const uint64_t*>(numbers + i);
#pragma unroll
  for (int j = 0; j < kUnit; ++j) {
    fp8 number;
    number.__x = static_cast<uint8_t>(codes >> 8 * j);
    out[j] = j < count ? ToFloat(number) : 0.0f;
  }
}

// Numbers i .. i + count of a row, then zeros; i is a multiple of kUnit.
__device__ void Unpack(const SegmentView& segment, const Row& row, int i, int count,
                       float (&out)[kUnit]) {
  switch (segment.format) {
    case LatentFormat::kF32:
      return UnpackFloats<float>(row.numbers, i, count, out);
    case LatentFormat::kBF16:
      return UnpackFloats<bf16>(row.numbers, i, count, out);
    case LatentFormat::kF16:
      return UnpackFloats<__half>(row.numbers, i, count, out);
    case LatentFormat::kFp8:
      return UnpackFp8(row.numbers, i, count, out);
    default:
      break;
  }
  uint64_t codes = 0;
  int bits = 8;
  uint32_t high = 0;
  if (segment.format == LatentFormat::kInt8) {
    codes = *reinterpret_cast<const uint64_t*>(row.numbers + i);
  } else if (segment.format == LatentFormat::kInt4) {
    codes = *reinterpret_cast<const uint32_t*>(row.numbers + i / 2);
    bits = 4;
  } else {
    codes = row.numbers[i / 4] | row.numbers[i / 4 + 1] << 8;
    bits = 2;
    if (segment.format == LatentFormat::kInt3) high = row.numbers[segment.high_offset + i / 8];
  }
  const uint32_t mask = (1u << bits) - 1;
#pragma unroll
  for (int j = 0; j < kUnit; ++j) {
    const uint32_t code = (static_cast<uint32_t>(codes >> bits * j) & mask) | (high >> j & 1) << 2;
    out[j] = j < count ? fmaf(row.scale, static_cast<float>(code), row.zero) : 0.0f;
  }
}

__device__ bool FindTile(const PrefillBatch& batch, const ProjectionView& projection, Tile* tile,
                         const PrefillSequence** sequence) {
  int s = 0;
  while (s + 1 < batch.count &&
         static_cast<int>(blockIdx.x) >= batch.sequences[s + 1].rebuild_tile) {
    ++s;
  }
  *sequence = &batch.sequences[s];
  const int skipped = (blockIdx.x - (*sequence)->rebuild_tile) * kRebuildTokens;
  tile->tokens = min(kRebuildTokens, (*sequence)->tokens - skipped);
  tile->first = (*sequence)->first_token + skipped;
  tile->row = (*sequence)->row + skipped;
  tile->head = blockIdx.y;
  tile->group = tile->head / projection.heads_per_group;
  tile->in_group = tile->head % projection.heads_per_group;
  return tile->tokens > 0;
}

template <int kHeadDim>
__device__ void FindRows(const AttentionParams& p, const SegmentView& segment, const Tile& tile,
                         const int32_t* table, Shared<kHeadDim>& shared) {
  for (int t = threadIdx.x; t < kRebuildTokens; t += kThreads) {
    Row row{nullptr, 0.0f, 0.0f};
    if (t < tile.tokens) {
      const int token = tile.first + t;
      const std::byte* block = p.pool + table[token / p.block_size] * p.block_bytes;
      const int offset = token % p.block_size;
      row.numbers = reinterpret_cast<const uint8_t*>(block) + segment.codes_offset +
                    static_cast<int64_t>(offset) * segment.row_bytes;
      if (IsQuantized(segment.format)) {
        const float2 scale =
            __half22float2(reinterpret_cast<const __half2*>(block + segment.scales_offset)[offset]);
        row.scale = scale.x;
        row.zero = scale.y;
      }
    }
    shared.rows[t] = row;
  }
  __syncthreads();
}

// latents[token][0 .. kDepth) and factor[dim][0 .. kDepth) of numbers r0 on, zeros past the rank.
template <int kHeadDim>
__device__ void LoadOperands(const AttentionParams& p, const SegmentView& segment, const Tile& tile,
                             int r0, Shared<kHeadDim>& shared) {
  constexpr int kUnits = kDepth / kUnit;
  for (int i = threadIdx.x; i < kRebuildTokens * kUnits; i += kThreads) {
    const int token = i / kUnits;
    const int r = r0 + i % kUnits * kUnit;
    float values[kUnit] = {};
    if (token < tile.tokens && r < segment.rank) {
      Unpack(segment, shared.rows[token], r, min(kUnit, segment.rank - r), values);
    }
    Vec<bf16> v;
#pragma unroll
    for (int j = 0; j < kUnit; ++j) v.v[j] = __float2bfloat16_rn(values[j]);
    *reinterpret_cast<Vec<bf16>*>(&shared.in.latents[token][i % kUnits * kUnit]) = v;
  }
  for (int i = threadIdx.x; i < kHeadDim * kUnits; i += kThreads) {
    const int dim = i / kUnits;
    const int r = r0 + i % kUnits * kUnit;
    const int64_t at = static_cast<int64_t>(tile.in_group * p.head_dim + dim) * segment.up_stride;
    Vec<bf16> v;
    const auto* from = static_cast<const bf16*>(segment.up) + at + r;
    if (dim < p.head_dim && r + kUnit <= segment.rank && segment.up_type == DType::kBF16 &&
        reinterpret_cast<uintptr_t>(from) % 16 == 0) {
      v = *reinterpret_cast<const Vec<bf16>*>(from);
    } else {
#pragma unroll
      for (int j = 0; j < kUnit; ++j) {
        const bool inside = dim < p.head_dim && r + j < segment.rank;
        v.v[j] = __float2bfloat16_rn(inside ? LoadAs(segment.up, segment.up_type, at + r + j) : 0);
      }
    }
    *reinterpret_cast<Vec<bf16>*>(&shared.in.factor[dim][i % kUnits * kUnit]) = v;
  }
}

// out = latents factor^T; a warp per 16 tokens.
template <int kHeadDim>
__device__ void Multiply(const AttentionParams& p, const SegmentView& segment, const Tile& tile,
                         Shared<kHeadDim>& shared) {
  const int lane = threadIdx.x % kWarp;
  const int first = threadIdx.x / kWarp * 16;
  float sum[kHeadDim / 8][4] = {};
  for (int r0 = 0; r0 < segment.rank; r0 += kDepth) {
    __syncthreads();
    LoadOperands(p, segment, tile, r0, shared);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      uint32_t a[4];
      LoadMatrices(a, SharedAddress(&shared.in.latents[first + lane % 16][k + lane / 16 * 8]));
#pragma unroll
      for (int n = 0; n < kHeadDim; n += 16) {
        uint32_t b[4];
        LoadMatrices(b, SharedAddress(
                            &shared.in.factor[n + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]));
        MmaBF16(sum[n / 8], a, b[0], b[1]);
        MmaBF16(sum[n / 8 + 1], a, b[2], b[3]);
      }
    }
  }
  __syncthreads();
  const int row = first + lane / 4;
#pragma unroll
  for (int n = 0; n < kHeadDim / 8; ++n) {
    const int column = n * 8 + lane % 4 * 2;
    shared.out[row][column] = sum[n][0];
    shared.out[row][column + 1] = sum[n][1];
    shared.out[row + 8][column] = sum[n][2];
    shared.out[row + 8][column + 1] = sum[n][3];
  }
  __syncthreads();
}

// Bias, norm and RoPE of one token's key, by a warp.
__device__ void FinishKey(const AttentionParams& p, int token, float* k) {
  const int lane = threadIdx.x % kWarp;
  if (p.k_norm != nullptr) {
    float sum = 0;
    for (int d = lane; d < p.head_dim; d += kWarp) sum += k[d] * k[d];
    const float scale = rsqrtf(WarpSum(sum) / p.head_dim + p.k_norm_eps);
    for (int d = lane; d < p.head_dim; d += kWarp) {
      k[d] *= scale * (LoadAs(p.k_norm, p.k_norm_type, d) + p.k_norm_offset);
    }
    __syncwarp();
  }
  const int half = p.rotary / 2;
  const float* angles = p.cos_sin + static_cast<int64_t>(token) * p.rotary;
  for (int d = lane; d < half; d += kWarp) {
    const float a = k[d];
    const float b = k[d + half];
    k[d] = a * angles[d] - b * angles[half + d];
    k[d + half] = b * angles[d] + a * angles[half + d];
  }
  __syncwarp();
}

template <int kHeadDim>
__device__ void UnpackDense(const AttentionParams& p, const SegmentView& segment, const Tile& tile,
                            Shared<kHeadDim>& shared) {
  constexpr int kUnits = kHeadDim / kUnit;
  for (int i = threadIdx.x; i < kRebuildTokens * kUnits; i += kThreads) {
    const int token = i / kUnits;
    const int d = i % kUnits * kUnit;
    float values[kUnit] = {};
    if (token < tile.tokens && d < p.head_dim) {
      Unpack(segment, shared.rows[token], tile.in_group * p.head_dim + d, kUnit, values);
    }
#pragma unroll
    for (int j = 0; j < kUnit; ++j) shared.out[token][d + j] = values[j];
  }
  __syncthreads();
}

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads)
    RebuildKernel(__grid_constant__ const AttentionParams p,
                  __grid_constant__ const PrefillBatch batch) {
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<Shared<kHeadDim>*>(memory);
  const bool is_key = blockIdx.z == 0;
  const ProjectionView& projection = is_key ? p.key : p.value;
  Tile tile;
  const PrefillSequence* sequence;
  if (!FindTile(batch, projection, &tile, &sequence)) return;
  const SegmentView& segment = projection.groups[tile.group];
  FindRows(p, segment, tile, p.block_tables + sequence->table * p.table_stride, shared);
  if (projection.dense) {
    UnpackDense(p, segment, tile, shared);
  } else {
    Multiply(p, segment, tile, shared);
  }
  const void* bias = is_key ? p.key_bias : p.value_bias;
  const DType bias_type = is_key ? p.key_bias_type : p.value_bias_type;
  const int lane = threadIdx.x % kWarp;
  bf16* to = (is_key ? batch.keys : batch.values) + tile.head * kHeadDim;
  for (int t = threadIdx.x / kWarp; t < tile.tokens; t += kWarps) {
    float* row = shared.out[t];
    if (bias != nullptr && !projection.dense) {
      for (int d = lane; d < p.head_dim; d += kWarp) {
        row[d] += LoadAs(bias, bias_type, tile.head * p.head_dim + d);
      }
      __syncwarp();
    }
    if (is_key && !projection.dense) FinishKey(p, tile.first + t, row);
    auto* out = reinterpret_cast<uint32_t*>(to + (tile.row + t) * p.kv_heads * kHeadDim);
    for (int i = lane; i < kHeadDim / 2; i += kWarp) {
      out[i] = PackBF16(row[2 * i], row[2 * i + 1]);
    }
  }
}

template <int kHeadDim>
void Launch(Context& context, const AttentionParams& p, const PrefillBatch& batch, int tiles) {
  const auto kernel = RebuildKernel<kHeadDim>;
  constexpr int kBytes = sizeof(Shared<kHeadDim>);
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "latent_rebuild");
  kernel<<<dim3(tiles, p.kv_heads, 2), kThreads, kBytes, context.stream.get()>>>(p, batch);
  CheckLaunch("latent_rebuild");
}

}  // namespace

void LaunchRebuild(Context& context, const AttentionParams& p, const PrefillBatch& batch,
                   int tiles) {
  switch (PaddedHeadDim(p.head_dim)) {
    case 64:
      return Launch<64>(context, p, batch, tiles);
    case 80:
      return Launch<80>(context, p, batch, tiles);
    case 96:
      return Launch<96>(context, p, batch, tiles);
    case 128:
      return Launch<128>(context, p, batch, tiles);
    default:
      return Launch<256>(context, p, batch, tiles);
  }
}

}  // namespace palu::cuda
