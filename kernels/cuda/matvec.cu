// out = x W^T for up to sixteen rows of x, bound by reading W once: several products of the same x
// share a launch. A block owns sixteen rows of W and its warps share the depth. Each warp copies 64
// numbers of the sixteen rows at a time, whole lines of 128 bytes, into a ring of its own in shared
// memory. From there a lane takes sixteen bytes of two rows, which are left operands of two
// tensor-core products as they are, since the order of the depth within a product is free; the same
// sixteen bytes of x are the right operand. x may be RMS-normalized on the way: its weights go into
// the operand, its scale, which is linear, into the result. docs/kernels/matvec.md.
#include <algorithm>

#include "kernels/cuda/activation.cuh"
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
constexpr int BlocksAtOnce(int stages) { return stages == kFewStages ? 3 : 2; }
constexpr int kMaxParts = 4;
constexpr int kMaxRows = 16;

// kGated: of two products of the norm, gate and up; only act(gate) * up is stored. A block has
// eight rows of each matrix.
enum class Form { kProducts, kNormed, kGated };

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
  Activation activation;
  // Of the norm.
  const bf16* norm_weight;
  float norm_eps, norm_offset;
};

// Where sixteen bytes lie in a stage. Odd rows swap their halves, so that neither the copies of a
// row by eight lanes nor the reads of two rows by eight lanes meet in a bank.
__device__ int PlaceOf(int row, int unit) {
  return row * kDepth * 2 + (unit ^ (row & 1) << 2) * 16;
}

// A warp's share of the weights of one block. They are the first to leave the second-level cache,
// so that what the small kernels between products read stays there until the next step.
template <Form kForm>
class WeightRing {
 public:
  // first: the block's first row of W.
  __device__ WeightRing(const Part* parts, int first, int depth, char* memory)
      : depth_(depth), ring_(SharedAddress(memory)), memory_(memory), policy_(EvictFirst()) {
    const int lane = threadIdx.x % kWarp;
    unit_ = lane % 8;
    // Rows past the end repeat the last one; their results are not stored.
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int row = i * 4 + lane / 8;
      const bool up = kForm == Form::kGated && i >= kCopies / 2;
      const Part& part = parts[up ? 1 : 0];
      const int output = min(first + row - (up ? kOutputs / 2 : 0), part.outputs - 1);
      from_[i] = part.weight + output * part.weight_stride + unit_ * 8;
      to_[i] = PlaceOf(row, unit_);
    }
  }

  // Zeros past the depth.
  __device__ void Copy(int k, int stage) {
    const int valid = k + unit_ * 8 < depth_ ? 16 : 0;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      CopyAsync16(ring_ + stage * kStageBytes + to_[i], valid > 0 ? from_[i] + k : from_[i], valid,
                  policy_);
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
  const uint64_t policy_;
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

__device__ uint32_t WeighPair(uint32_t x, uint32_t weight, float offset, float* squares) {
  const float low = LowBF16(x);
  const float high = HighBF16(x);
  *squares = fmaf(low, low, fmaf(high, high, *squares));
  return PackBF16(low * (LowBF16(weight) + offset), high * (HighBF16(weight) + offset));
}

// x times the norm's weights; adds up the squares of x.
__device__ uint4 Weigh(const uint4& x, const uint4& weight, float offset, float* squares) {
  return {WeighPair(x.x, weight.x, offset, squares), WeighPair(x.y, weight.y, offset, squares),
          WeighPair(x.z, weight.z, offset, squares), WeighPair(x.w, weight.w, offset, squares)};
}

__device__ float WithBias(const Part& part, int output, float value) {
  return part.bias != nullptr ? value + LoadAs(part.bias, part.bias_type, output) : value;
}

__device__ void Store(const Part& part, int row, int output, float value) {
  const int64_t at = row * part.out_stride + output;
  if (part.out_type == DType::kF32) {
    float* to = static_cast<float*>(part.out) + at;
    *to = part.accumulate ? *to + value : value;
  } else {
    bf16* to = static_cast<bf16*>(part.out) + at;
    *to = __float2bfloat16_rn(part.accumulate ? ToFloat(*to) + value : value);
  }
}

// Sums of a block's warps, in the memory of its rings.
template <int kTiles>
struct BlockSums {
  float sums[kWarps][kTiles * 8][kOutputs + 1];
  float squares[kWarps][kTiles * 8];

  __device__ void Put(const float (&sum)[kTiles][4], const float (&square)[kTiles]) {
    const int lane = threadIdx.x % kWarp;
    const int warp = threadIdx.x / kWarp;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[warp][t * 8 + lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] = sum[t][i];
      }
      float total = square[t] + __shfl_xor_sync(~0u, square[t], 1);
      total += __shfl_xor_sync(~0u, total, 2);
      if (lane % 4 == 0) squares[warp][t * 8 + lane / 4] = total;
    }
  }

  __device__ float Total(int row, int output) const {
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[w][row][output];
    return total;
  }

  __device__ float Scale(int row, const MatvecParams& p) const {
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += squares[w][row];
    return rsqrtf(total / static_cast<float>(p.depth) + p.norm_eps);
  }
};

// kTiles: tiles of eight rows of x.
template <int kTiles, int kStages, Form kForm>
__global__ void __launch_bounds__(kThreads, BlocksAtOnce(kStages))
    MatvecKernel(__grid_constant__ const MatvecParams p) {
  extern __shared__ __align__(128) char memory[];
  constexpr bool kNormed = kForm != Form::kProducts;
  constexpr int kBlockOutputs = kForm == Form::kGated ? kOutputs / 2 : kOutputs;
  int index = 0;
  while (kForm != Form::kGated && index + 1 < p.count &&
         static_cast<int>(blockIdx.x) >= p.parts[index + 1].first_block) {
    ++index;
  }
  const Part& part = p.parts[index];
  const int first = (blockIdx.x - part.first_block) * kBlockOutputs;
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int row = lane / 4;
  WeightRing<kForm> ring(&part, first, p.depth, memory + warp * kStages * kStageBytes);
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
  float squares[kTiles] = {};
  int stage = 0;
  for (int k = begin; k < p.depth; k += kStep) {
    const int next = stage == 0 ? kStages - 1 : stage - 1;
    ring.Copy(k + (kStages - 1) * kStep, next);
    CommitCopies();
    uint4 x[2][kTiles];
    uint4 weight[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int at = k + h * 32 + lane % 4 * 8;
      if (kNormed) weight[h] = LoadIf(at < p.depth, p.norm_weight + at);
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
      for (int t = 0; t < kTiles; ++t) {
        if (kNormed) x[h][t] = Weigh(x[h][t], weight[h], p.norm_offset, &squares[t]);
        Multiply(sum[t], low, high, x[h][t]);
      }
    }
    __syncwarp();
    stage = stage == kStages - 1 ? 0 : stage + 1;
  }
  WaitCopies<0>();
  __syncthreads();
  auto& sums = *reinterpret_cast<BlockSums<kTiles>*>(memory);
  sums.Put(sum, squares);
  __syncthreads();
  for (int i = threadIdx.x; i < p.rows * kBlockOutputs; i += kThreads) {
    const int at = i % kBlockOutputs;
    const int of_row = i / kBlockOutputs;
    const int output = first + at;
    if (output >= part.outputs) continue;
    const float scale = kNormed ? sums.Scale(of_row, p) : 1.0f;
    float value = WithBias(part, output, sums.Total(of_row, at) * scale);
    if constexpr (kForm == Form::kGated) {
      const float up = sums.Total(of_row, at + kBlockOutputs) * scale;
      value = Activate(value, p.activation) * WithBias(p.parts[1], output, up);
    }
    Store(part, of_row, output, value);
  }
}

bool Aligned(const Tensor& x) {
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride[0] % 8 == 0;
}

bool NormServes(const RmsNormArgs& norm, std::span<const MatmulArgs> products) {
  if (norm.x.rank != 2 || norm.x.dim(0) == 0 || norm.x.dtype != DType::kBF16 || !Aligned(norm.x) ||
      norm.weight.dtype != DType::kBF16 ||
      reinterpret_cast<uintptr_t>(norm.weight.data) % 16 != 0) {
    return false;
  }
  return std::all_of(products.begin(), products.end(), [&](const MatmulArgs& args) {
    return MatvecServes(args) && args.x.data == norm.out.data && args.x.dim(0) == norm.x.dim(0);
  });
}

template <Form kForm>
void LaunchForm(Context& context, const MatvecParams& p, int64_t blocks) {
  const auto launch = [&](auto kernel, int stages) {
    const int bytes = kWarps * stages * kStageBytes;
    Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
          "matvec");
    LaunchEarly(context, kernel, dim3(blocks), kThreads, bytes, "matvec", p);
  };
  if (blocks > 2 * context.multiprocessors) {
    launch(p.rows <= 8 ? MatvecKernel<1, kFewStages, kForm> : MatvecKernel<2, kFewStages, kForm>,
           kFewStages);
  } else {
    launch(p.rows <= 8 ? MatvecKernel<1, kManyStages, kForm> : MatvecKernel<2, kManyStages, kForm>,
           kManyStages);
  }
}

// The products' x is norm's out, if there is a norm.
MatvecParams ParamsOf(const Tensor& x, const RmsNormArgs* norm) {
  MatvecParams p{};
  p.x = x.ptr<bf16>();
  p.x_stride = x.stride[0];
  p.rows = x.dim(0);
  p.depth = x.dim(1);
  if (norm != nullptr) {
    p.norm_weight = norm->weight.ptr<bf16>();
    p.norm_eps = norm->eps;
    p.norm_offset = norm->weight_offset;
  }
  return p;
}

void AddPart(const MatmulArgs& args, int64_t first_block, MatvecParams* p) {
  p->parts[p->count++] = {.weight = args.weight.ptr<bf16>(),
                          .weight_stride = args.weight.stride[0],
                          .bias = args.bias.data,
                          .out = args.out.data,
                          .out_stride = args.out.stride[0],
                          .outputs = static_cast<int32_t>(args.weight.dim(0)),
                          .first_block = static_cast<int32_t>(first_block),
                          .bias_type = args.bias.dtype,
                          .out_type = args.out.dtype,
                          .accumulate = args.accumulate};
}

void Products(Context& context, const Tensor& x, const RmsNormArgs* norm,
              std::span<const MatmulArgs> products) {
  while (!products.empty()) {
    MatvecParams p = ParamsOf(x, norm);
    int64_t blocks = 0;
    while (p.count < kMaxParts && p.count < static_cast<int>(products.size())) {
      const MatmulArgs& args = products[p.count];
      AddPart(args, blocks, &p);
      blocks += CeilDiv(args.weight.dim(0), kOutputs);
    }
    if (norm != nullptr) {
      LaunchForm<Form::kNormed>(context, p, blocks);
    } else {
      LaunchForm<Form::kProducts>(context, p, blocks);
    }
    products = products.subspan(p.count);
  }
}

}  // namespace

bool MatvecServes(const MatmulArgs& args) {
  return args.x.dtype == DType::kBF16 && args.weight.dtype == DType::kBF16 &&
         args.x.dim(0) <= kMaxRows && args.x.dim(1) % 8 == 0 && Aligned(args.x) &&
         Aligned(args.weight) && (args.out.dtype == DType::kF32 || args.out.dtype == DType::kBF16);
}

void Matvec(Context& context, std::span<const MatmulArgs> products) {
  Products(context, products[0].x, nullptr, products);
}

bool NormMatvec(Context& context, const RmsNormArgs& norm, std::span<const MatmulArgs> products) {
  if (products.empty() || !NormServes(norm, products)) return false;
  Products(context, norm.x, &norm, products);
  return true;
}

bool NormGatedMatvec(Context& context, const RmsNormArgs& norm, const GatedMatmulArgs& args) {
  const MatmulArgs products[] = {args.gate, args.up};
  if (!NormServes(norm, products)) return false;
  MatvecParams p = ParamsOf(norm.x, &norm);
  for (const MatmulArgs& product : products) AddPart(product, 0, &p);
  p.activation = args.activation;
  const int64_t blocks = CeilDiv(args.gate.weight.dim(0), kOutputs / 2);
  LaunchForm<Form::kGated>(context, p, blocks);
  return true;
}

}  // namespace palu::cuda
