// Device helpers that every op shares: conversions, vector loads, reductions, dtype dispatch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <stdexcept>

#include "kernels/tensor.h"

namespace palu::cuda {

using bf16 = __nv_bfloat16;

inline constexpr int kWarp = 32;

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

__device__ inline float ToFloat(float v) { return v; }
__device__ inline float ToFloat(bf16 v) { return __bfloat162float(v); }
__device__ inline float ToFloat(__half v) { return __half2float(v); }

template <typename T>
__device__ inline T FromFloat(float v);
template <>
__device__ inline float FromFloat<float>(float v) {
  return v;
}
template <>
__device__ inline bf16 FromFloat<bf16>(float v) {
  return __float2bfloat16_rn(v);
}
template <>
__device__ inline __half FromFloat<__half>(float v) {
  return __float2half_rn(v);
}

// Element i of an array whose type is known at run time only; for small operands.
__device__ inline float LoadAs(const void* data, DType type, int64_t i) {
  if (type == DType::kBF16) return ToFloat(static_cast<const bf16*>(data)[i]);
  if (type == DType::kF16) return ToFloat(static_cast<const __half*>(data)[i]);
  return static_cast<const float*>(data)[i];
}

__device__ inline float WarpSum(float v) {
  for (int mask = 16; mask > 0; mask >>= 1) v += __shfl_xor_sync(~0u, v, mask);
  return v;
}

__device__ inline float WarpMax(float v) {
  for (int mask = 16; mask > 0; mask >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, mask));
  return v;
}

// Sum over the block, the same in every thread. scratch: 32 floats of shared memory.
__device__ inline float BlockSum(float v, float* scratch) {
  v = WarpSum(v);
  const int warp = threadIdx.x / kWarp;
  const int warps = (blockDim.x + kWarp - 1) / kWarp;
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[warp] = v;
  __syncthreads();
  float total = 0;
  for (int i = 0; i < warps; ++i) total += scratch[i];
  return total;
}

// Largest value over the block, the same in every thread. scratch: 32 floats of shared memory.
__device__ inline float BlockMax(float v, float* scratch) {
  v = WarpMax(v);
  const int warp = threadIdx.x / kWarp;
  const int warps = (blockDim.x + kWarp - 1) / kWarp;
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[warp] = v;
  __syncthreads();
  float best = scratch[0];
  for (int i = 1; i < warps; ++i) best = fmaxf(best, scratch[i]);
  return best;
}

// A kernel that is launched by LaunchEarly may run while the one before it in the stream ends: what
// it does ahead of AwaitPrevious must neither read what that one writes nor write anything. Every
// such kernel awaits, so what lies further back has ended too.
__device__ inline void AwaitPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

// The next kernel, if launched by LaunchEarly, may start once all blocks have called this.
__device__ inline void AdmitNext() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

// Sixteen bytes as numbers.
template <typename T>
struct alignas(16) Vec {
  static constexpr int kCount = 16 / sizeof(T);
  T v[kCount];
};

// Calls fn with a value of the C++ type of an activation or weight.
template <typename Fn>
void DispatchFloat(DType type, Fn&& fn) {
  switch (type) {
    case DType::kF32:
      return fn(float{});
    case DType::kBF16:
      return fn(bf16{});
    case DType::kF16:
      return fn(__half{});
    default:
      throw std::runtime_error("cuda: expected a floating-point tensor");
  }
}

// The same for activations, which are f32 or bf16.
template <typename Fn>
void DispatchActivation(DType type, Fn&& fn) {
  if (type == DType::kF32) return fn(float{});
  if (type == DType::kBF16) return fn(bf16{});
  throw std::runtime_error("cuda: activations must be f32 or bf16");
}

}  // namespace palu::cuda
