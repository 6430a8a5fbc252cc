// Non-owning view of a strided array on one device.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include "kernels/dtype.h"

namespace palu {

// A view: copies are cheap, nothing is owned. Strides count elements; the innermost stride is 1.
// Thread-safety: as the memory it points to.
struct Tensor {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  std::array<int64_t, kMaxRank> stride{};

  Tensor() = default;

  // A contiguous row-major view.
  Tensor(void* data_in, DType dtype_in, std::initializer_list<int64_t> shape_in)
      : data(data_in), dtype(dtype_in), rank(static_cast<int>(shape_in.size())) {
    int i = 0;
    for (int64_t extent : shape_in) shape[i++] = extent;
    int64_t step = 1;
    for (i = rank - 1; i >= 0; --i) {
      stride[i] = step;
      step *= shape[i];
    }
  }

  bool defined() const { return data != nullptr; }
  int64_t dim(int i) const { return shape[i]; }

  int64_t num_elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }

  bool contiguous() const {
    int64_t step = 1;
    for (int i = rank - 1; i >= 0; --i) {
      if (shape[i] != 1 && stride[i] != step) return false;
      step *= shape[i];
    }
    return true;
  }

  template <typename T>
  T* ptr() const {
    return static_cast<T*>(data);
  }

  // Rows [begin, begin + count) of the outermost dimension.
  Tensor Rows(int64_t begin, int64_t count) const {
    Tensor view = *this;
    view.data = static_cast<char*>(data) + begin * stride[0] * static_cast<int64_t>(SizeOf(dtype));
    view.shape[0] = count;
    return view;
  }

  // Columns [begin, begin + count) of the innermost dimension.
  Tensor Columns(int64_t begin, int64_t count) const {
    Tensor view = *this;
    view.data = static_cast<char*>(data) + begin * static_cast<int64_t>(SizeOf(dtype));
    view.shape[rank - 1] = count;
    return view;
  }

  // [T, n * d] seen as [T, n, d]; the outer stride is kept.
  Tensor SplitLast(int64_t heads, int64_t head_dim) const {
    Tensor view = *this;
    view.rank = rank + 1;
    view.shape[rank - 1] = heads;
    view.shape[rank] = head_dim;
    view.stride[rank - 1] = head_dim;
    view.stride[rank] = 1;
    return view;
  }
};

}  // namespace palu
