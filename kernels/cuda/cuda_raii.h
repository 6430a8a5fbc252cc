// Owners of CUDA objects, and the check that turns a CUDA error into an exception.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace palu::cuda {

// Throws std::runtime_error "<op>: <CUDA error>" unless error is success.
inline void Check(cudaError_t error, const char* op) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("cuda ") + op + ": " + cudaGetErrorName(error) + ": " +
                           cudaGetErrorString(error));
}

// After a kernel launch.
inline void CheckLaunch(const char* op) { Check(cudaGetLastError(), op); }

// Move-only owner of a stream. Not thread-safe.
class Stream {
 public:
  Stream() { Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }
  void Synchronize() { Check(cudaStreamSynchronize(stream_), "synchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

// Move-only owner of a recorded sequence of launches. Not thread-safe.
class Graph {
 public:
  Graph() = default;
  // Records what fn launches on the stream, without running it.
  template <typename Fn>
  Graph(Stream& stream, Fn&& fn) {
    Check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "capture");
    cudaGraph_t graph = nullptr;
    try {
      fn();
    } catch (...) {
      cudaStreamEndCapture(stream.get(), &graph);
      cudaGraphDestroy(graph);
      throw;
    }
    Check(cudaStreamEndCapture(stream.get(), &graph), "end of capture");
    const cudaError_t error = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    Check(error, "graph");
  }
  Graph(Graph&& other) noexcept { *this = std::move(other); }
  Graph& operator=(Graph&& other) noexcept {
    std::swap(executable_, other.executable_);
    return *this;
  }
  ~Graph() {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
  }

  bool defined() const { return executable_ != nullptr; }
  void Launch(Stream& stream) { Check(cudaGraphLaunch(executable_, stream.get()), "graph launch"); }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

// Owner of a timing event. Not thread-safe.
class Event {
 public:
  Event() { Check(cudaEventCreate(&event_), "event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  cudaEvent_t get() const { return event_; }
  void Record(cudaStream_t stream) { Check(cudaEventRecord(event_, stream), "event record"); }
  // Milliseconds from start to this event; waits for this event.
  float MillisecondsSince(const Event& start) {
    Check(cudaEventSynchronize(event_), "event synchronize");
    float ms = 0;
    Check(cudaEventElapsedTime(&ms, start.event_, event_), "event elapsed");
    return ms;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// Move-only owner of device memory; a failed allocation throws std::bad_alloc. Not thread-safe.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    if (cudaMalloc(&data_, bytes) != cudaSuccess) {
      cudaGetLastError();
      throw std::bad_alloc();
    }
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer() { cudaFree(data_); }

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Owner of page-locked host memory. Not thread-safe.
class PinnedBuffer {
 public:
  explicit PinnedBuffer(size_t bytes) : bytes_(bytes) {
    Check(cudaMallocHost(&data_, bytes), "pinned memory");
  }
  ~PinnedBuffer() { cudaFreeHost(data_); }
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace palu::cuda
