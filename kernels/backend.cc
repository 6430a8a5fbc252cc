#include "kernels/backend.h"

#include <charconv>
#include <stdexcept>

#include "kernels/cpu/cpu_backend.h"

#ifdef PALU_WITH_CUDA
#include "kernels/cuda/cuda_backend.h"
#else
namespace palu {
namespace {

int CudaDeviceCount() { return 0; }

std::unique_ptr<Backend> CreateCudaBackend(int device, DType activations) { return nullptr; }

}  // namespace
}  // namespace palu
#endif

namespace palu {
namespace {

std::string AvailableDevices() {
  std::string names = "auto, cpu";
  for (int i = 0; i < CudaDeviceCount(); ++i) names += ", cuda:" + std::to_string(i);
  return names;
}

// The N of "cuda:N", or -1.
int ParseCudaDevice(const std::string& device) {
  constexpr std::string_view kPrefix = "cuda:";
  if (!device.starts_with(kPrefix)) return -1;
  int index = -1;
  const char* end = device.data() + device.size();
  const auto result = std::from_chars(device.data() + kPrefix.size(), end, index);
  return result.ec == std::errc() && result.ptr == end ? index : -1;
}

}  // namespace

std::unique_ptr<Backend> CreateBackend(const BackendOptions& options) {
  if (options.device == "auto" && CudaDeviceCount() > 0) {
    return CreateCudaBackend(0, options.cuda_activations);
  }
  if (options.device == "auto" || options.device == "cpu") return cpu::CreateCpuBackend(options);
  const int device = ParseCudaDevice(options.device);
  if (device >= 0 && device < CudaDeviceCount()) {
    return CreateCudaBackend(device, options.cuda_activations);
  }
  throw std::runtime_error("device: \"" + options.device +
                           "\" is not available here; available: " + AvailableDevices());
}

}  // namespace palu
