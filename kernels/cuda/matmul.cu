// out = x W^T. bf16 products of few rows go to matvec.cu, larger ones of one 16-bit type to
// cuBLASLt; any other mix of types goes through plain kernels with f32 arithmetic.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/ops.h"

namespace palu::cuda {
namespace {

constexpr int kFewRows = 8;
constexpr int kGemvThreads = 256;

// One warp per row of W and up to kRows rows of x. The order of the sum depends on K alone.
template <typename X, typename W, typename Out, int kRows>
__global__ void __launch_bounds__(kGemvThreads)
    FewRowsKernel(const X* x, int64_t x_stride, const W* weight, int64_t w_stride, const void* bias,
                  DType bias_type, Out* out, int64_t out_stride, int rows, int outputs, int depth,
                  bool accumulate) {
  constexpr int kCount = Vec<W>::kCount;
  const int output = blockIdx.x * (kGemvThreads / kWarp) + threadIdx.x / kWarp;
  if (output >= outputs) return;
  const int lane = threadIdx.x % kWarp;
  const W* w = weight + output * w_stride;
  float sum[kRows] = {};
#pragma unroll 2
  for (int k = lane * kCount; k < depth; k += kWarp * kCount) {
    const auto wv = *reinterpret_cast<const Vec<W>*>(w + k);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (row >= rows) continue;
      const X* xr = x + row * x_stride + k;
      constexpr int kParts = kCount * sizeof(X) / 16 > 0 ? kCount * sizeof(X) / 16 : 1;
      constexpr int kPart = kCount / kParts;
      struct alignas(kPart * sizeof(X)) Part {
        X v[kPart];
      };
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
        const Part xv = *reinterpret_cast<const Part*>(xr + p * kPart);
#pragma unroll
        for (int j = 0; j < kPart; ++j) {
          sum[row] = fmaf(ToFloat(wv.v[p * kPart + j]), ToFloat(xv.v[j]), sum[row]);
        }
      }
    }
  }
  const float offset = bias != nullptr ? LoadAs(bias, bias_type, output) : 0.0f;
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const float total = WarpSum(sum[row]);
    if (lane != 0 || row >= rows) continue;
    Out* to = out + row * out_stride + output;
    *to = FromFloat<Out>(total + offset + (accumulate ? ToFloat(*to) : 0.0f));
  }
}

constexpr int kTile = 64;
constexpr int kTileDepth = 16;

// 64 x 64 outputs per block of 256 threads, 4 x 4 per thread.
template <typename X, typename W, typename Out>
__global__ void __launch_bounds__(256)
    TiledKernel(const X* x, int64_t x_stride, const W* weight, int64_t w_stride, const void* bias,
                DType bias_type, Out* out, int64_t out_stride, int rows, int outputs, int depth,
                bool accumulate) {
  __shared__ float xs[kTileDepth][kTile + 4];
  __shared__ float ws[kTileDepth][kTile + 4];
  const int row0 = blockIdx.y * kTile;
  const int col0 = blockIdx.x * kTile;
  const int tx = threadIdx.x % 16;
  const int ty = threadIdx.x / 16;
  float sum[4][4] = {};
  for (int k0 = 0; k0 < depth; k0 += kTileDepth) {
    for (int i = threadIdx.x; i < kTile * kTileDepth; i += 256) {
      const int r = i / kTileDepth;
      const int k = i % kTileDepth;
      const bool inside = k0 + k < depth;
      xs[k][r] = inside && row0 + r < rows ? ToFloat(x[(row0 + r) * x_stride + k0 + k]) : 0.0f;
      ws[k][r] =
          inside && col0 + r < outputs ? ToFloat(weight[(col0 + r) * w_stride + k0 + k]) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kTileDepth; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sum[i][j] = fmaf(xs[k][ty * 4 + i], ws[k][tx + 16 * j], sum[i][j]);
        }
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      const int row = row0 + ty * 4 + i;
      const int col = col0 + tx + 16 * j;
      if (row >= rows || col >= outputs) continue;
      Out* to = out + row * out_stride + col;
      const float offset = bias != nullptr ? LoadAs(bias, bias_type, col) : 0.0f;
      *to = FromFloat<Out>(sum[i][j] + offset + (accumulate ? ToFloat(*to) : 0.0f));
    }
  }
}

template <typename Out>
__global__ void BiasKernel(Out* out, int64_t out_stride, const void* bias, DType bias_type,
                           int columns) {
  Out* row = out + blockIdx.x * out_stride;
  for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < columns; i += gridDim.y * blockDim.x) {
    row[i] = FromFloat<Out>(ToFloat(row[i]) + LoadAs(bias, bias_type, i));
  }
}

bool Aligned(const Tensor& x) {
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 &&
         x.stride[0] * static_cast<int64_t>(SizeOf(x.dtype)) % 16 == 0;
}

template <typename X, typename W, typename Out>
void LaunchOwn(Context& context, const MatmulArgs& args) {
  const int rows = args.x.dim(0);
  const int outputs = args.weight.dim(0);
  const int depth = args.weight.dim(1);
  const auto launch = [&](auto kernel, dim3 grid) {
    kernel<<<grid, 256, 0, context.stream.get()>>>(
        args.x.ptr<X>(), args.x.stride[0], args.weight.ptr<W>(), args.weight.stride[0],
        args.bias.data, args.bias.dtype, args.out.ptr<Out>(), args.out.stride[0], rows, outputs,
        depth, args.accumulate);
  };
  const bool vectors =
      Aligned(args.x) && Aligned(args.weight) && depth % Vec<W>::kCount == 0 && depth >= kWarp;
  // In f32 one path serves all row counts, so that a row's bits do not depend on the others.
  if (rows > kFewRows || !vectors || std::is_same_v<X, float>) {
    launch(TiledKernel<X, W, Out>, dim3(CeilDiv(outputs, kTile), CeilDiv(rows, kTile)));
    return;
  }
  const dim3 grid(CeilDiv(outputs, kGemvThreads / kWarp));
  if (rows == 1) {
    launch(FewRowsKernel<X, W, Out, 1>, grid);
  } else if (rows <= 4) {
    launch(FewRowsKernel<X, W, Out, 4>, grid);
  } else {
    launch(FewRowsKernel<X, W, Out, kFewRows>, grid);
  }
}

}  // namespace

void Matmul(Context& context, const MatmulArgs& args) {
  const int64_t rows = args.x.dim(0);
  if (rows == 0) return;
  if (MatvecServes(args)) return Matvec(context, {&args, 1});
  const bool own = rows <= kFewRows || args.x.dtype != args.weight.dtype ||
                   args.x.dtype == DType::kF32 || !Aligned(args.x) || !Aligned(args.weight) ||
                   !Aligned(args.out);
  if (own) {
    DispatchActivation(args.x.dtype, [&](auto x) {
      DispatchFloat(args.weight.dtype, [&](auto w) {
        DispatchActivation(args.out.dtype, [&](auto out) {
          LaunchOwn<decltype(x), decltype(w), decltype(out)>(context, args);
        });
      });
    });
    CheckLaunch("matmul");
    return;
  }
  if (context.plans->Run(args, context.stream.get())) return;
  const int columns = args.out.dim(1);
  DispatchActivation(args.out.dtype, [&](auto out) {
    using Out = decltype(out);
    BiasKernel<Out><<<dim3(rows, CeilDiv(columns, 1024)), 256, 0, context.stream.get()>>>(
        args.out.ptr<Out>(), args.out.stride[0], args.bias.data, args.bias.dtype, columns);
  });
  CheckLaunch("matmul bias");
}

void Matmuls(Context& context, std::span<const MatmulArgs> products) {
  const bool together = std::all_of(products.begin(), products.end(), [&](const MatmulArgs& args) {
    return MatvecServes(args) && args.x.data == products[0].x.data;
  });
  if (together && products[0].x.dim(0) > 0) return Matvec(context, products);
  for (const MatmulArgs& args : products) Matmul(context, args);
}

}  // namespace palu::cuda
