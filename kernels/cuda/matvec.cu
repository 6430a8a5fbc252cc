// out = x W^T for up to sixteen rows of x, bound by reading W once: several products of the same x
// share a launch. A block owns sixteen rows of W and its warps share the depth. Each warp copies 64
// numbers of the sixteen rows at a time, whole lines of 128 bytes, into a ring of its own in shared
// memory. From there a lane takes sixteen bytes of two rows, which are left operands of two
// tensor-core products as they are, since the order of the depth within a product is free; the same
// sixteen bytes of x are the right operand. docs/kernels/matvec.md.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ops.h"

namespace palu::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kOutputs = 16;  // rows of W per block
constexpr int kDepth = 64;    // numbers of depth that a warp copies at a time
constexpr int kStageBytes = kOutputs * kDepth * 2;
// Stages of the ring. Where the blocks outnumber two per multiprocessor, three of fewer stages
// serve better: they run at once, or wait for less.
constexpr int kFewStages = 4;
constexpr int kManyStages = 6;
constexpr int kMaxParts = 4;
constexpr int kMaxRows = 16;

// One product.
struct Part {
  const bf16* weight;
  int64_t weight_stride;
  const void* bias;
  void* out;
  int64_t out_stride;
  int32_t outputs;
  int32_t first_block;
  DType bias_type, out_type;
  bool accumulate;
};

struct MatvecParams {
  Part parts[kMaxParts];
  const bf16* x;
  int64_t x_stride;
  int32_t count, rows, depth;
};

// Where sixteen bytes lie in a stage. Odd rows swap their halves, so that neither the copies of a
// row by eight lanes nor the reads of two rows by eight lanes meet in a bank.
__device__ int PlaceOf(int row, int unit) {
  return row * kDepth * 2 + (unit ^ (row & 1) << 2) * 16;
}

// A warp's share of the weights of one block.
class WeightRing {
 public:
  // first: the block's first row of W.
  __device__ WeightRing(const Part& part, int first, int depth, char* memory)
      : depth_(depth), ring_(SharedAddress(memory)), memory_(memory) {
    const int lane = threadIdx.x % kWarp;
    unit_ = lane % 8;
    // Rows past the end repeat the last one; their results are not stored.
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int row = i * 4 + lane / 8;
      from_[i] = part.weight + min(first + row, part.outputs - 1) * part.weight_stride + unit_ * 8;
      to_[i] = PlaceOf(row, unit_);
    }
  }

  // Zeros past the depth.
  __device__ void Copy(int k, int stage) {
    const int valid = k + unit_ * 8 < depth_ ? 16 : 0;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      CopyAsync16(ring_ + stage * kStageBytes + to_[i], valid > 0 ? from_[i] + k : from_[i], valid);
    }
  }

  __device__ uint4 Read(int stage, int row, int unit) const {
    return *reinterpret_cast<const uint4*>(memory_ + stage * kStageBytes + PlaceOf(row, unit));
  }

 private:
  static constexpr int kCopies = kOutputs / 4;
  const int depth_;
  const uint32_t ring_;
  const char* memory_;
  int unit_;
  const bf16* from_[kCopies];
  int to_[kCopies];
};

__device__ uint4 LoadIf(bool valid, const bf16* from) {
  return valid ? *reinterpret_cast<const uint4*>(from) : uint4{};
}

__device__ void Multiply(float (&sum)[4], const uint4& low, const uint4& high, const uint4& x) {
  const uint32_t first[4] = {low.x, high.x, low.y, high.y};
  MmaBF16(sum, first, x.x, x.y);
  const uint32_t second[4] = {low.z, high.z, low.w, high.w};
  MmaBF16(sum, second, x.z, x.w);
}

__device__ void Store(const Part& part, int row, int output, float value) {
  if (part.bias != nullptr) value += LoadAs(part.bias, part.bias_type, output);
  const int64_t at = row * part.out_stride + output;
  if (part.out_type == DType::kF32) {
    float* to = static_cast<float*>(part.out) + at;
    *to = part.accumulate ? *to + value : value;
  } else {
    bf16* to = static_cast<bf16*>(part.out) + at;
    *to = __float2bfloat16_rn(part.accumulate ? ToFloat(*to) + value : value);
  }
}

// kTiles: tiles of eight rows of x.
template <int kTiles, int kStages>
__global__ void __launch_bounds__(kThreads) MatvecKernel(__grid_constant__ const MatvecParams p) {
  extern __shared__ __align__(128) char memory[];
  int index = 0;
  while (index + 1 < p.count && static_cast<int>(blockIdx.x) >= p.parts[index + 1].first_block) {
    ++index;
  }
  const Part& part = p.parts[index];
  const int first = (blockIdx.x - part.first_block) * kOutputs;
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int row = lane / 4;
  WeightRing ring(part, first, p.depth, memory + warp * kStages * kStageBytes);
  constexpr int kStep = kWarps * kDepth;
  const int begin = warp * kDepth;
  AdmitNext();
  for (int s = 0; s < kStages - 1; ++s) {
    ring.Copy(begin + s * kStep, s);
    CommitCopies();
  }
  // The first weights are on their way before x is there.
  AwaitPrevious();
  float sum[kTiles][4] = {};
  int stage = 0;
  for (int k = begin; k < p.depth; k += kStep) {
    const int next = stage == 0 ? kStages - 1 : stage - 1;
    ring.Copy(k + (kStages - 1) * kStep, next);
    CommitCopies();
    uint4 x[2][kTiles];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int at = k + h * 32 + lane % 4 * 8;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        x[h][t] =
            LoadIf(t * 8 + row < p.rows && at < p.depth, p.x + (t * 8 + row) * p.x_stride + at);
      }
    }
    WaitCopies<kStages - 1>();
    __syncwarp();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint4 low = ring.Read(stage, row, h * 4 + lane % 4);
      const uint4 high = ring.Read(stage, row + 8, h * 4 + lane % 4);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) Multiply(sum[t], low, high, x[h][t]);
    }
    __syncwarp();
    stage = stage == kStages - 1 ? 0 : stage + 1;
  }
  WaitCopies<0>();
  __syncthreads();
  auto& sums = *reinterpret_cast<float(*)[kWarps][kTiles * 8][kOutputs + 1]>(memory);
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[warp][t * 8 + lane % 4 * 2 + i % 2][row + i / 2 * 8] = sum[t][i];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < p.rows * kOutputs; i += kThreads) {
    const int output = first + i % kOutputs;
    if (output >= part.outputs) continue;
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[w][i / kOutputs][i % kOutputs];
    Store(part, i / kOutputs, output, total);
  }
}

bool Aligned(const Tensor& x) {
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride[0] % 8 == 0;
}

}  // namespace

bool MatvecServes(const MatmulArgs& args) {
  return args.x.dtype == DType::kBF16 && args.weight.dtype == DType::kBF16 &&
         args.x.dim(0) <= kMaxRows && args.x.dim(1) % 8 == 0 && Aligned(args.x) &&
         Aligned(args.weight) && (args.out.dtype == DType::kF32 || args.out.dtype == DType::kBF16);
}

void Matvec(Context& context, std::span<const MatmulArgs> products) {
  const Tensor& x = products[0].x;
  while (!products.empty()) {
    MatvecParams p{};
    p.x = x.ptr<bf16>();
    p.x_stride = x.stride[0];
    p.rows = x.dim(0);
    p.depth = x.dim(1);
    int64_t blocks = 0;
    for (; p.count < kMaxParts && p.count < static_cast<int>(products.size()); ++p.count) {
      const MatmulArgs& args = products[p.count];
      p.parts[p.count] = {.weight = args.weight.ptr<bf16>(),
                          .weight_stride = args.weight.stride[0],
                          .bias = args.bias.data,
                          .out = args.out.data,
                          .out_stride = args.out.stride[0],
                          .outputs = static_cast<int32_t>(args.weight.dim(0)),
                          .first_block = static_cast<int32_t>(blocks),
                          .bias_type = args.bias.dtype,
                          .out_type = args.out.dtype,
                          .accumulate = args.accumulate};
      blocks += CeilDiv(args.weight.dim(0), kOutputs);
    }
    const auto launch = [&](auto kernel, int stages) {
      const int bytes = kWarps * stages * kStageBytes;
      Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
            "matvec");
      LaunchEarly(context, kernel, dim3(blocks), kThreads, bytes, "matvec", p);
    };
    if (blocks > 2 * context.multiprocessors) {
      launch(p.rows <= 8 ? MatvecKernel<1, kFewStages> : MatvecKernel<2, kFewStages>, kFewStages);
    } else {
      launch(p.rows <= 8 ? MatvecKernel<1, kManyStages> : MatvecKernel<2, kManyStages>,
             kManyStages);
    }
    products = products.subspan(p.count);
  }
}

}  // namespace palu::cuda
