// Element-wise ops: residual add and gated activation. Bound by bytes.
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/ops.h"

namespace palu::cuda {
namespace {

// Rows may be strided; columns are walked sixteen bytes at a time where alignment allows.
template <typename T, typename Fn>
__global__ void RowsKernel(const T* x, int64_t x_stride, const T* y, int64_t y_stride, T* out,
                           int64_t out_stride, int columns, bool aligned, Fn fn) {
  constexpr int kCount = Vec<T>::kCount;
  AdmitNext();
  AwaitPrevious();
  x += blockIdx.x * x_stride;
  y += blockIdx.x * y_stride;
  out += blockIdx.x * out_stride;
  const int first = blockIdx.y * blockDim.x + threadIdx.x;
  const int step = gridDim.y * blockDim.x;
  const int vectors = aligned ? columns / kCount : 0;
  for (int i = first; i < vectors; i += step) {
    const auto a = reinterpret_cast<const Vec<T>*>(x)[i];
    const auto b = reinterpret_cast<const Vec<T>*>(y)[i];
    Vec<T> c;
#pragma unroll
    for (int j = 0; j < kCount; ++j) c.v[j] = FromFloat<T>(fn(ToFloat(a.v[j]), ToFloat(b.v[j])));
    reinterpret_cast<Vec<T>*>(out)[i] = c;
  }
  for (int i = vectors * kCount + first; i < columns; i += step) {
    out[i] = FromFloat<T>(fn(ToFloat(x[i]), ToFloat(y[i])));
  }
}

struct Plus {
  __device__ float operator()(float a, float b) const { return a + b; }
};

struct Gate {
  Activation activation;
  __device__ float operator()(float gate, float up) const {
    return Activate(gate, activation) * up;
  }
};

bool Aligned(const Tensor& x) {
  const auto row_bytes = x.stride[0] * static_cast<int64_t>(SizeOf(x.dtype));
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && row_bytes % 16 == 0;
}

template <typename Fn>
void Rows(Context& context, const Tensor& x, const Tensor& y, const Tensor& out, Fn fn,
          const char* op) {
  if (x.num_elements() == 0) return;
  const bool aligned = Aligned(x) && Aligned(y) && Aligned(out);
  DispatchActivation(x.dtype, [&](auto type) {
    using T = decltype(type);
    const int columns = x.dim(1);
    const int per_block = 256 * (aligned ? Vec<T>::kCount : 1);
    const dim3 grid(x.dim(0), CeilDiv(columns, per_block));
    LaunchEarly(context, RowsKernel<T, Fn>, grid, 256, 0, op, x.ptr<T>(), x.stride[0], y.ptr<T>(),
                y.stride[0], out.ptr<T>(), out.stride[0], columns, aligned, fn);
  });
}

}  // namespace

void Add(Context& context, const AddArgs& args) {
  Rows(context, args.x, args.y, args.x, Plus{}, "add");
}

void GatedActivation(Context& context, const GatedActivationArgs& args) {
  Rows(context, args.gate, args.up, args.out, Gate{args.activation}, "gated_activation");
}

}  // namespace palu::cuda
