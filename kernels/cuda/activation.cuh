// The activation functions of gated MLPs.
#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/common.cuh"

namespace palu::cuda {

__device__ inline float Activate(float x, Activation activation) {
  if (activation == Activation::kSilu) return x / (1.0f + expf(-x));
  const float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
  return 0.5f * x * (1.0f + tanhf(inner));
}

}  // namespace palu::cuda
