// One projection of one layer as kernel parameters, and scalar access to cached numbers.
#pragma once

#include <cuda_fp8.h>

#include <stdexcept>

#include "kernels/cuda/common.cuh"
#include "kernels/latent_format.h"

namespace palu::cuda {

inline constexpr int kMaxGroups = 64;

using fp8 = __nv_fp8_e4m3;

__device__ inline float ToFloat(fp8 v) { return static_cast<float>(v); }
// Saturates.
template <>
__device__ inline fp8 FromFloat<fp8>(float v) {
  return fp8(v);
}

// One (projection, group): LatentSegment and its up factor.
struct SegmentView {
  int64_t codes_offset;   // bytes from the start of a block
  int64_t scales_offset;  // bytes from the start of a block
  const void* up;         // [heads_per_group * head_dim, rank] or null when dense
  int64_t up_stride;
  int32_t row_bytes;
  int32_t rank;
  int32_t high_offset;  // int3: bytes from the row to its plane of high bits
  DType up_type;
  LatentFormat format;
};

// LatentProjection by value.
struct ProjectionView {
  SegmentView groups[kMaxGroups];
  int32_t num_groups;
  int32_t heads_per_group;
  bool dense;
};

inline ProjectionView ViewOf(const LatentProjection& projection) {
  if (projection.groups.size() > kMaxGroups) {
    throw std::runtime_error("cuda: a projection has more than 64 latent groups");
  }
  ProjectionView view{};
  view.num_groups = static_cast<int>(projection.groups.size());
  view.heads_per_group = projection.heads_per_group;
  view.dense = projection.dense();
  for (int g = 0; g < view.num_groups; ++g) {
    const LatentSegment& from = projection.groups[g];
    SegmentView& to = view.groups[g];
    to.codes_offset = from.codes_offset;
    to.scales_offset = from.scales_offset;
    to.row_bytes = static_cast<int32_t>(from.row_bytes);
    to.rank = from.rank;
    to.high_offset = (from.rank + kCodeGranularity - 1) / kCodeGranularity * kCodeGranularity / 4;
    to.format = from.format;
    if (view.dense) continue;
    to.up = projection.up[g].data;
    to.up_stride = projection.up[g].stride[0];
    to.up_type = projection.up[g].dtype;
  }
  return view;
}

__device__ inline int LatentCode(const SegmentView& segment, const uint8_t* row, int i) {
  switch (segment.format) {
    case LatentFormat::kInt8:
      return row[i];
    case LatentFormat::kInt4:
      return row[i >> 1] >> (i & 1) * 4 & 15;
    case LatentFormat::kInt3:
      return (row[i >> 2] >> (i & 3) * 2 & 3) | (row[segment.high_offset + (i >> 3)] >> (i & 7) & 1)
                                                    << 2;
    default:
      return row[i >> 2] >> (i & 3) * 2 & 3;
  }
}

// Number i of the row of one token; block: start of the cache block, offset: the token in it.
__device__ inline float LatentValue(const SegmentView& segment, const std::byte* block, int offset,
                                    int i) {
  const auto* row = reinterpret_cast<const uint8_t*>(block) + segment.codes_offset +
                    static_cast<int64_t>(offset) * segment.row_bytes;
  switch (segment.format) {
    case LatentFormat::kF32:
      return reinterpret_cast<const float*>(row)[i];
    case LatentFormat::kBF16:
      return ToFloat(reinterpret_cast<const bf16*>(row)[i]);
    case LatentFormat::kF16:
      return ToFloat(reinterpret_cast<const __half*>(row)[i]);
    case LatentFormat::kFp8:
      return ToFloat(reinterpret_cast<const fp8*>(row)[i]);
    default: {
      const float2 scale =
          __half22float2(reinterpret_cast<const __half2*>(block + segment.scales_offset)[offset]);
      return fmaf(scale.x, static_cast<float>(LatentCode(segment, row, i)), scale.y);
    }
  }
}

}  // namespace palu::cuda
