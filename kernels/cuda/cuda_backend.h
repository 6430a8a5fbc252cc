// The NVIDIA GPU backend, as callers outside kernels/cuda see it. Includes no CUDA header.
#pragma once

#include <memory>

#include "kernels/backend.h"

namespace palu {

// Devices that the driver reports; 0 without a driver.
int CudaDeviceCount();

// A backend on one device. activations is kBF16 (fast) or kF32 (exact, for tests and debugging).
// Throws std::runtime_error when the device is absent or older than compute capability 8.0.
std::unique_ptr<Backend> CreateCudaBackend(int device, DType activations = DType::kBF16);

}  // namespace palu
