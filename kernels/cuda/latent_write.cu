// Quantizes, packs and stores this step's latents, of keys and values in one launch: one warp per
// (token, group). Turns the queries of the same tokens besides, a warp per (token, share of its
// pairs). Bound by reading x and writing the packed rows once.
#include <type_traits>

#include "kernels/cuda/latent_view.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/rope.cuh"

namespace palu::cuda {
namespace {

constexpr int kWarps = 4;

struct Pool {
  std::byte* data;
  int64_t block_bytes;
  int block_size;
};

// Keeps numbers that f16 cannot hold finite.
__device__ float ClampToHalf(float v) { return fminf(fmaxf(v, -65504.0f), 65504.0f); }

template <typename Out, typename X>
__device__ void StoreFloats(const X* x, uint8_t* row, int rank, int lane) {
  for (int i = lane; i < rank; i += kWarp) {
    const float v = ToFloat(x[i]);
    constexpr bool clamp = std::is_same_v<Out, __half>;
    reinterpret_cast<Out*>(row)[i] = FromFloat<Out>(clamp ? ClampToHalf(v) : v);
  }
}

// Eight numbers of x from unit * 8 on, NaN past the end.
struct Unit {
  float v[kCodeGranularity];

  template <typename X>
  __device__ Unit(const X* x, int rank, int unit) {
#pragma unroll
    for (int j = 0; j < kCodeGranularity; ++j) {
      const int i = unit * kCodeGranularity + j;
      v[j] = i < rank ? ToFloat(x[i]) : NAN;
    }
  }

  // fminf and fmaxf leave NaN out.
  __device__ void Widen(float* low, float* high) const {
#pragma unroll
    for (int j = 0; j < kCodeGranularity; ++j) {
      *low = fminf(*low, v[j]);
      *high = fmaxf(*high, v[j]);
    }
  }

  // NaN becomes code 0.
  __device__ uint32_t Code(int j, float zero, float scale, int top) const {
    if (!(scale > 0.0f)) return 0;
    const float position = fmaxf((v[j] - zero) / scale, 0.0f);
    return static_cast<uint32_t>(rintf(fminf(position, static_cast<float>(top))));
  }
};

// Rows are padded to whole units; a lane keeps its first one, so that short rows are read once.
template <typename X>
__device__ void StoreCodes(const X* x, uint8_t* row, __half2* scales, const SegmentView& segment,
                           int lane) {
  const int rank = segment.rank;
  float low = INFINITY;
  float high = -INFINITY;
  const Unit own(x, rank, lane);
  own.Widen(&low, &high);
  for (int unit = lane + kWarp; unit * kCodeGranularity < rank; unit += kWarp) {
    Unit(x, rank, unit).Widen(&low, &high);
  }
  low = -WarpMax(-low);
  high = WarpMax(high);
  const int bits = segment.format == LatentFormat::kInt8   ? 8
                   : segment.format == LatentFormat::kInt4 ? 4
                   : segment.format == LatentFormat::kInt3 ? 3
                                                           : 2;
  const int top = (1 << bits) - 1;
  const __half2 stored = __floats2half2_rn(ClampToHalf((high - low) / top), ClampToHalf(low));
  if (lane == 0) *scales = stored;
  const float2 rounded = __half22float2(stored);
  for (int unit = lane; unit * kCodeGranularity < rank; unit += kWarp) {
    const Unit numbers = unit == lane ? own : Unit(x, rank, unit);
    uint32_t codes[kCodeGranularity];
#pragma unroll
    for (int j = 0; j < kCodeGranularity; ++j) {
      codes[j] = numbers.Code(j, rounded.y, rounded.x, top);
    }
    const int first = unit * kCodeGranularity;
    if (bits == 8) {
#pragma unroll
      for (int j = 0; j < 8; ++j) row[first + j] = codes[j];
    } else if (bits == 4) {
#pragma unroll
      for (int j = 0; j < 8; j += 2) row[(first + j) / 2] = codes[j] | codes[j + 1] << 4;
    } else {
      uint32_t pairs = 0;
      uint32_t highs = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        pairs |= (codes[j] & 3) << 2 * j;
        highs |= (codes[j] >> 2) << j;
      }
      row[first / 4] = pairs;
      row[first / 4 + 1] = pairs >> 8;
      if (bits == 3) row[segment.high_offset + unit] = highs;
    }
  }
}

// The rows of one projection.
struct Source {
  const void* x;
  int64_t stride;
  ProjectionView projection;
};

template <typename X>
__global__ void WriteKernel(__grid_constant__ const Source key,
                            __grid_constant__ const Source value, const int64_t* slots, int tokens,
                            Pool pool, __grid_constant__ const RopeView query) {
  const int token = blockIdx.x * kWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int groups = key.projection.num_groups + value.projection.num_groups;
  AdmitNext();
  if (static_cast<int>(blockIdx.y) >= groups) {
    const int share = blockIdx.y - groups;
    const PairTurner<X> turner(query, min(token, tokens - 1), share * kWarp + lane,
                               (gridDim.y - groups) * kWarp);
    AwaitPrevious();
    if (token < tokens) turner.Turn();
    return;
  }
  const bool is_key = static_cast<int>(blockIdx.y) < key.projection.num_groups;
  const Source& source = is_key ? key : value;
  const int group = blockIdx.y - (is_key ? 0 : key.projection.num_groups);
  const SegmentView& segment = source.projection.groups[group];
  int first = 0;
  for (int g = 0; g < group; ++g) first += source.projection.groups[g].rank;
  // What no kernel writes is read ahead.
  const int64_t slot = token < tokens ? slots[token] : -1;
  const X* from = static_cast<const X*>(source.x) + token * source.stride + first;
  std::byte* block = pool.data + slot / pool.block_size * pool.block_bytes;
  const int offset = slot % pool.block_size;
  auto* row = reinterpret_cast<uint8_t*>(block) + segment.codes_offset +
              static_cast<int64_t>(offset) * segment.row_bytes;
  AwaitPrevious();
  if (slot < 0) return;
  switch (segment.format) {
    case LatentFormat::kF32:
      return StoreFloats<float>(from, row, segment.rank, lane);
    case LatentFormat::kBF16:
      return StoreFloats<bf16>(from, row, segment.rank, lane);
    case LatentFormat::kF16:
      return StoreFloats<__half>(from, row, segment.rank, lane);
    case LatentFormat::kFp8:
      if (segment.rank + lane < segment.row_bytes) row[segment.rank + lane] = 0;
      return StoreFloats<fp8>(from, row, segment.rank, lane);
    default:
      return StoreCodes(from, row,
                        reinterpret_cast<__half2*>(block + segment.scales_offset) + offset, segment,
                        lane);
  }
}

}  // namespace

void LatentWrites(Context& context, const LatentWriteArgs& key, const LatentWriteArgs* value,
                  const RopeArgs* query) {
  const int tokens = key.x.dim(0);
  if (tokens == 0) return;
  const Pool pool{key.pool.data, key.pool.block_bytes, key.pool.block_size};
  const auto source_of = [](const LatentWriteArgs& args) {
    return Source{args.x.data, args.x.stride[0], ViewOf(args.projection)};
  };
  const Source keys = source_of(key);
  const Source values = value != nullptr ? source_of(*value) : Source{};
  const RopeView turned = query != nullptr ? ViewOf(*query) : RopeView{};
  const auto shares = CeilDiv(turned.heads * turned.half, kPairsPerThread * kWarp);
  const dim3 grid(CeilDiv(tokens, kWarps),
                  keys.projection.num_groups + values.projection.num_groups + shares);
  DispatchActivation(key.x.dtype, [&](auto type) {
    LaunchEarly(context, WriteKernel<decltype(type)>, grid, kWarps * kWarp, 0, "latent_write", keys,
                values, key.slot_mapping.ptr<int64_t>(), tokens, pool, turned);
  });
}

}  // namespace palu::cuda
