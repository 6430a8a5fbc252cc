#include "kernels/cuda/cuda_backend.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <new>
#include <stdexcept>
#include <string>

#include "kernels/cuda/context.h"
#include "kernels/cuda/ops.h"

namespace palu {
namespace {

constexpr int kOldestCapability = 80;

constexpr size_t kPinnedBytes = 16 << 20;
constexpr size_t kMaxRecordedSteps = 512;

// The Backend of one NVIDIA GPU: every op is a launch on one stream, so ops run in call order.
// Small copies to the device go through page-locked memory and do not wait; copies to the host and
// Synchronize wait for the stream. One thread at a time calls ops; Allocate and Free are
// thread-safe, as cudaMalloc and cudaFree are.
class CudaBackend : public Backend {
 public:
  CudaBackend(int device, DType activations) {
    cuda::Check(cudaSetDevice(device), "set device");
    cudaDeviceProp properties{};
    cuda::Check(cudaGetDeviceProperties(&properties, device), "device properties");
    const int capability = properties.major * 10 + properties.minor;
    if (capability < kOldestCapability) {
      throw std::runtime_error("cuda:" + std::to_string(device) + " (" + properties.name +
                               ") has compute capability " + std::to_string(properties.major) +
                               "." + std::to_string(properties.minor) + ", at least 8.0 is needed");
    }
    context_ = std::make_unique<cuda::Context>();
    context_->device = device;
    context_->multiprocessors = properties.multiProcessorCount;
    context_->capability = capability;
    context_->max_shared_bytes = properties.sharedMemPerBlockOptin;
    context_->activations = activations;
    context_->plans = std::make_unique<cuda::MatmulPlans>();
    pinned_ = std::make_unique<cuda::PinnedBuffer>(kPinnedBytes);
    total_bytes_ = properties.totalGlobalMem;
  }

  std::string name() const override { return "cuda:" + std::to_string(context_->device); }
  std::string isa() const override { return "sm_" + std::to_string(context_->capability); }
  DType activation_dtype() const override { return context_->activations; }
  bool host_memory() const override { return false; }
  bool replays_steps() const override { return true; }

  Buffer Allocate(size_t bytes) override {
    UseDevice();
    void* data = nullptr;
    if (cudaMalloc(&data, bytes == 0 ? 1 : bytes) != cudaSuccess) {
      cudaGetLastError();
      throw std::bad_alloc();
    }
    return Buffer(this, data, bytes);
  }

  void Free(void* data, size_t) override { cudaFree(data); }

  size_t FreeBytes() const override {
    UseDevice();
    size_t free = 0;
    size_t total = 0;
    cuda::Check(cudaMemGetInfo(&free, &total), "memory info");
    return free;
  }

  size_t TotalBytes() const override { return total_bytes_; }

  void CopyToDevice(void* dst, const void* src, size_t bytes) override {
    if (bytes == 0) return;
    UseDevice();
    if (bytes > kPinnedBytes / 4) {
      return Copy(dst, src, bytes, cudaMemcpyHostToDevice, "copy to device");
    }
    std::byte* staged = Pinned(bytes);
    std::memcpy(staged, src, bytes);
    cuda::Check(cudaMemcpyAsync(dst, staged, bytes, cudaMemcpyHostToDevice, context_->stream.get()),
                "copy to device");
  }

  void CopyToHost(void* dst, const void* src, size_t bytes) override {
    UseDevice();
    if (bytes > kPinnedBytes / 4) {
      return Copy(dst, src, bytes, cudaMemcpyDeviceToHost, "copy to host");
    }
    std::byte* staged = Pinned(bytes);
    Copy(staged, src, bytes, cudaMemcpyDeviceToHost, "copy to host");
    std::memcpy(dst, staged, bytes);
  }

  void CopyOnDevice(void* dst, const void* src, size_t bytes) override {
    if (bytes == 0) return;
    UseDevice();
    cuda::Check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, context_->stream.get()),
                "copy on device");
  }

  std::shared_ptr<void> AllocateHost(size_t bytes) override {
    UseDevice();
    void* data = nullptr;
    if (cudaMallocHost(&data, bytes == 0 ? 1 : bytes) != cudaSuccess) {
      cudaGetLastError();
      throw std::bad_alloc();
    }
    return {data, cudaFreeHost};
  }

  void CopyPieces(const PieceCopyArgs& args) override {
    UseDevice();
    const auto bytes = static_cast<size_t>(args.piece_bytes);
    for (const auto& [device, host] : args.pieces) {
      std::byte* on_device = args.device + device * args.piece_bytes;
      std::byte* on_host = args.host + host * args.piece_bytes;
      void* to = args.to_device ? on_device : on_host;
      const void* from = args.to_device ? on_host : on_device;
      cuda::Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, context_->stream.get()),
                  "copy pieces");
    }
  }

  void Synchronize() override {
    UseDevice();
    context_->stream.Synchronize();
  }

  size_t Reserve(const StepLimits& limits) override {
    UseDevice();
    size_t bytes = cuda::MoeScratchBytes(limits);
    bytes = std::max(bytes, cuda::AttentionScratchBytes(*context_, limits));
    bytes = std::max(bytes, cuda::SampleScratchBytes(limits));
    context_->Scratch(bytes);
    return context_->scratch.bytes();
  }

  // The first step of a key runs as it is, which settles what kernels and plans set up once; the
  // second records, and from then on the record runs.
  void RunStep(uint64_t key, const std::function<void()>& fn) override {
    UseDevice();
    if (key == 0) return fn();
    if (steps_.count(key) == 0) {
      if (steps_.size() >= kMaxRecordedSteps) {
        context_->stream.Synchronize();
        steps_.clear();
      }
      fn();
      steps_.emplace(key, cuda::Graph());
      return;
    }
    cuda::Graph& graph = steps_[key];
    if (!graph.defined()) graph = cuda::Graph(context_->stream, fn);
    graph.Launch(context_->stream);
  }

  void Embedding(const EmbeddingArgs& args) override { cuda::Embedding(*context_, args); }
  void RmsNorm(const RmsNormArgs& args) override { cuda::RmsNorm(*context_, args); }
  void Matmul(const MatmulArgs& args) override { cuda::Matmul(*context_, args); }
  void Matmuls(std::span<const MatmulArgs> products) override {
    cuda::Matmuls(*context_, products);
  }
  void NormMatmuls(const RmsNormArgs& norm, std::span<const MatmulArgs> products) override {
    if (!cuda::NormMatvec(*context_, norm, products)) Backend::NormMatmuls(norm, products);
  }
  void NormGatedMatmul(const RmsNormArgs& norm, const GatedMatmulArgs& args) override {
    if (!cuda::NormGatedMatvec(*context_, norm, args)) Backend::NormGatedMatmul(norm, args);
  }
  void Add(const AddArgs& args) override { cuda::Add(*context_, args); }
  void Rope(const RopeArgs& args) override { cuda::Rope(*context_, args); }
  void Hadamard(const HadamardArgs& args) override { cuda::Hadamard(*context_, args); }
  void GatedActivation(const GatedActivationArgs& args) override {
    cuda::GatedActivation(*context_, args);
  }
  void Moe(const MoeArgs& args) override { cuda::Moe(*context_, args); }
  void LatentWrite(const LatentWriteArgs& args) override {
    cuda::LatentWrites(*context_, args, nullptr, nullptr);
  }
  void LatentWrites(const LatentWriteArgs& key, const LatentWriteArgs& value) override {
    cuda::LatentWrites(*context_, key, &value, nullptr);
  }
  void RopeAndWrite(const RopeArgs& query, const LatentWriteArgs& key,
                    const LatentWriteArgs& value) override {
    cuda::LatentWrites(*context_, key, &value, &query);
  }
  void LatentAttention(const LatentAttentionArgs& args) override {
    cuda::LatentAttention(*context_, args);
  }
  void GatherRows(const GatherRowsArgs& args) override { cuda::GatherRows(*context_, args); }
  void Sample(const SampleArgs& args) override { cuda::Sample(*context_, args); }

 private:
  // The current device belongs to the calling thread.
  void UseDevice() const { cuda::Check(cudaSetDevice(context_->device), "set device"); }

  void Copy(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind, const char* what) {
    if (bytes == 0) return;
    cuda::Check(cudaMemcpyAsync(dst, src, bytes, kind, context_->stream.get()), what);
    context_->stream.Synchronize();
  }

  // Page-locked memory that no copy under way uses.
  std::byte* Pinned(size_t bytes) {
    if (pinned_used_ + bytes > kPinnedBytes) {
      context_->stream.Synchronize();
      pinned_used_ = 0;
    }
    std::byte* place = static_cast<std::byte*>(pinned_->data()) + pinned_used_;
    pinned_used_ += (bytes + 63) / 64 * 64;
    return place;
  }

  std::unique_ptr<cuda::Context> context_;
  std::unique_ptr<cuda::PinnedBuffer> pinned_;
  size_t pinned_used_ = 0;
  std::map<uint64_t, cuda::Graph> steps_;
  size_t total_bytes_ = 0;
};

}  // namespace

int CudaDeviceCount() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

std::unique_ptr<Backend> CreateCudaBackend(int device, DType activations) {
  if (activations != DType::kBF16 && activations != DType::kF32) {
    throw std::runtime_error("cuda: activations must be bf16 or f32");
  }
  const int count = CudaDeviceCount();
  if (device < 0 || device >= count) {
    throw std::runtime_error("cuda:" + std::to_string(device) + " is not there (" +
                             std::to_string(count) + " CUDA devices found)");
  }
  return std::make_unique<CudaBackend>(device, activations);
}

}  // namespace palu
