// What the launchers of kernels/cuda share: the device, its stream and scratch memory.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>

#include "kernels/backend.h"
#include "kernels/cuda/cuda_raii.h"
#include "kernels/cuda/matmul_plans.h"

namespace palu::cuda {

// One device's state. Used by one thread at a time.
struct Context {
  int device = 0;
  int multiprocessors = 0;
  int capability = 0;  // 10 * major + minor
  size_t max_shared_bytes = 0;
  DType activations = DType::kBF16;
  Stream stream;
  DeviceBuffer scratch;
  std::unique_ptr<MatmulPlans> plans;

  // At least bytes of scratch memory, valid until the next call. Grows outside of serving only:
  // Reserve takes what steps need beforehand.
  void* Scratch(size_t bytes) {
    if (bytes > scratch.bytes()) {
      stream.Synchronize();
      scratch = DeviceBuffer();
      scratch = DeviceBuffer(bytes);
    }
    return scratch.data();
  }
};

// Launches a kernel that calls AwaitPrevious (common.cuh) before it depends on the one before it.
template <typename... Parameters, typename... Arguments>
void LaunchEarly(const Context& context, void (*kernel)(Parameters...), dim3 grid, int threads,
                 size_t shared_bytes, const char* op, Arguments&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = context.stream.get();
  config.attrs = &attribute;
  config.numAttrs = context.capability >= 90 ? 1 : 0;
  Check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), op);
}

}  // namespace palu::cuda
