// Owner of device memory.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <utility>

#include "kernels/tensor.h"

namespace palu {

class Backend;

// Move-only owner of a block of a backend's memory; frees it on destruction. The backend must
// outlive it. Not thread-safe.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Backend* backend, void* data, size_t bytes)
      : backend_(backend), data_(data), bytes_(bytes) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(backend_, other.backend_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  bool defined() const { return data_ != nullptr; }

  // A contiguous view of the first elements.
  Tensor View(DType dtype, std::initializer_list<int64_t> shape, size_t offset_bytes = 0) const {
    return Tensor(static_cast<char*>(data_) + offset_bytes, dtype, shape);
  }

 private:
  Backend* backend_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace palu
