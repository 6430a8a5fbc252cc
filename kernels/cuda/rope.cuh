// Rotary embedding in place, for the kernels that do it.
#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/common.cuh"

namespace palu::cuda {

// RopeArgs for the device.
struct RopeView {
  void* x;
  int64_t token_stride, head_stride;
  int32_t heads, half;
  const int32_t* positions;
  const float* cos_sin;
};

inline RopeView ViewOf(const RopeArgs& args) {
  return {.x = args.x.data,
          .token_stride = args.x.stride[0],
          .head_stride = args.x.stride[1],
          .heads = static_cast<int32_t>(args.x.dim(1)),
          .half = static_cast<int32_t>(args.cos_sin.dim(1) / 2),
          .positions = args.positions.ptr<int32_t>(),
          .cos_sin = args.cos_sin.ptr<float>()};
}

inline constexpr int kPairsPerThread = 4;

// Pairs first, first + step, … of all heads of a token, kPairsPerThread at most.
template <typename T>
class PairTurner {
 public:
  // Reads the angles, which no kernel writes.
  __device__ PairTurner(const RopeView& view, int token, int first, int step)
      : view_(view), token_(token), first_(first), step_(step) {
    const float* row = view.cos_sin + static_cast<int64_t>(view.positions[token]) * 2 * view.half;
#pragma unroll
    for (int n = 0; n < kPairsPerThread; ++n) {
      if (!Has(n)) continue;
      cosine_[n] = row[Dim(n)];
      sine_[n] = row[view.half + Dim(n)];
    }
  }

  __device__ void Turn() const {
    float low[kPairsPerThread], high[kPairsPerThread];
#pragma unroll
    for (int n = 0; n < kPairsPerThread; ++n) {
      if (!Has(n)) continue;
      low[n] = ToFloat(Head(n)[Dim(n)]);
      high[n] = ToFloat(Head(n)[Dim(n) + view_.half]);
    }
#pragma unroll
    for (int n = 0; n < kPairsPerThread; ++n) {
      if (!Has(n)) continue;
      Head(n)[Dim(n)] = FromFloat<T>(low[n] * cosine_[n] - high[n] * sine_[n]);
      Head(n)[Dim(n) + view_.half] = FromFloat<T>(high[n] * cosine_[n] + low[n] * sine_[n]);
    }
  }

 private:
  __device__ int Pair(int n) const { return first_ + n * step_; }
  __device__ bool Has(int n) const { return Pair(n) < view_.heads * view_.half; }
  __device__ int Dim(int n) const { return Pair(n) % view_.half; }
  __device__ T* Head(int n) const {
    return static_cast<T*>(view_.x) + token_ * view_.token_stride +
           Pair(n) / view_.half * view_.head_stride;
  }

  const RopeView& view_;
  const int token_, first_, step_;
  float cosine_[kPairsPerThread], sine_[kPairsPerThread];
};

}  // namespace palu::cuda
