// Mixture of experts without a round trip to the host: every (token, chosen expert) pair is a row;
// rows are grouped by expert, each expert's tiles run two grouped products with its own weights,
// and each token adds up its rows in the order of its choices.
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/ops.h"

namespace palu::cuda {
namespace {

constexpr int kMaxExperts = 256;
constexpr int kMaxTopK = 16;
constexpr int kTile = 32;  // rows and outputs per block
constexpr int kTileDepth = 32;
constexpr int kMaxTokens = 512;  // per pass, so that the scratch memory stays small

struct ExpertPointers {
  const void* weight[kMaxExperts];
};

// Views of the scratch memory of one pass.
struct Routing {
  int32_t* expert;    // [tokens, top_k] chosen expert
  float* weight;      // [tokens, top_k]
  int32_t* begin;     // [experts + 1] first row of every expert
  int32_t* row_pair;  // [tokens * top_k] (token, choice) of a row
  float* hidden;      // [tokens * top_k, F] by row
  float* result;      // [tokens * top_k, D] by pair
};

// One warp per token.
__global__ void ChooseKernel(const float* logits, int64_t stride, int experts, int top_k,
                             bool normalize, Routing routing) {
  const int lane = threadIdx.x;
  const float* row = logits + blockIdx.x * stride;
  float value[kMaxExperts / kWarp];
  float largest = -INFINITY;
  for (int i = 0; i < kMaxExperts / kWarp; ++i) {
    const int e = lane + i * kWarp;
    value[i] = e < experts ? row[e] : -INFINITY;
    largest = fmaxf(largest, value[i]);
  }
  largest = WarpMax(largest);
  float sum = 0;
  for (int i = 0; i < kMaxExperts / kWarp; ++i) sum += expf(value[i] - largest);
  sum = WarpSum(sum);
  float kept = 0;
  for (int k = 0; k < top_k; ++k) {
    float best = -INFINITY;
    int index = experts;
    for (int i = 0; i < kMaxExperts / kWarp; ++i) {
      if (value[i] > best) {
        best = value[i];
        index = lane + i * kWarp;
      }
    }
    const float top = WarpMax(best);
    int winner = best == top ? index : experts;
    for (int mask = 16; mask > 0; mask >>= 1) {
      winner = min(winner, __shfl_xor_sync(~0u, winner, mask));
    }
    for (int i = 0; i < kMaxExperts / kWarp; ++i) {
      if (lane + i * kWarp == winner) value[i] = -INFINITY;
    }
    const float probability = expf(top - largest) / sum;
    kept += probability;
    if (lane == 0) {
      routing.expert[blockIdx.x * top_k + k] = min(winner, experts - 1);
      routing.weight[blockIdx.x * top_k + k] = probability;
    }
  }
  __syncwarp();
  if (normalize && lane < top_k) routing.weight[blockIdx.x * top_k + lane] /= kept;
}

// One block: a stable counting sort of the pairs by expert; thread e places expert e's pairs.
__global__ void GroupKernel(int pairs, int experts, Routing routing) {
  __shared__ int count[kMaxExperts + 1];
  const int e = threadIdx.x;
  int mine = 0;
  if (e < experts) {
    for (int i = 0; i < pairs; ++i) mine += routing.expert[i] == e;
  }
  if (e == 0) count[0] = 0;
  if (e < experts) count[e + 1] = mine;
  __syncthreads();
  if (e == 0) {
    for (int i = 0; i < experts; ++i) count[i + 1] += count[i];
  }
  __syncthreads();
  if (e <= experts) routing.begin[e] = count[e];
  if (e >= experts) return;
  int next = count[e];
  for (int i = 0; i < pairs; ++i) {
    if (routing.expert[i] == e) routing.row_pair[next++] = i;
  }
}

// Rows [begin of expert, begin of the next) of one product; a block owns kTile x kTile outputs and
// walks the row tiles of its expert. Loads rows through a gather, stores through a functor.
template <typename W, typename Load, typename Store, bool kGated>
__global__ void __launch_bounds__(256)
    GroupedKernel(__grid_constant__ const ExpertPointers first, int64_t first_stride,
                  __grid_constant__ const ExpertPointers second, int64_t second_stride,
                  const int32_t* begin, int outputs, int depth, Load load, Store store) {
  __shared__ float xs[kTileDepth][kTile + 1];
  __shared__ float as[kTileDepth][kTile + 1];
  __shared__ float bs[kTileDepth][kTile + 1];
  const int expert = blockIdx.y;
  const int end = begin[expert + 1];
  const int col0 = blockIdx.x * kTile;
  const auto* a = static_cast<const W*>(first.weight[expert]);
  const auto* b = static_cast<const W*>(second.weight[expert]);
  const int tx = threadIdx.x % kTile;
  const int ty = threadIdx.x / kTile;  // 8 rows of threads, 4 outputs each
  for (int row0 = begin[expert]; row0 < end; row0 += kTile) {
    float sum_a[4] = {};
    float sum_b[4] = {};
    for (int k0 = 0; k0 < depth; k0 += kTileDepth) {
      for (int r = ty; r < kTile; r += 8) {
        const bool inside = k0 + tx < depth;
        xs[tx][r] = inside && row0 + r < end ? load(row0 + r, k0 + tx) : 0.0f;
        const bool column = inside && col0 + r < outputs;
        as[tx][r] = column ? ToFloat(a[(col0 + r) * first_stride + k0 + tx]) : 0.0f;
        if (kGated) bs[tx][r] = column ? ToFloat(b[(col0 + r) * second_stride + k0 + tx]) : 0.0f;
      }
      __syncthreads();
      for (int k = 0; k < kTileDepth; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sum_a[i] = fmaf(xs[k][ty + 8 * i], as[k][tx], sum_a[i]);
          if (kGated) sum_b[i] = fmaf(xs[k][ty + 8 * i], bs[k][tx], sum_b[i]);
        }
      }
      __syncthreads();
    }
    for (int i = 0; i < 4; ++i) {
      const int row = row0 + ty + 8 * i;
      if (row < end && col0 + tx < outputs) store(row, col0 + tx, sum_a[i], sum_b[i]);
    }
  }
}

template <typename T>
struct LoadToken {
  const T* x;
  int64_t stride;
  const int32_t* row_pair;
  int top_k;
  __device__ float operator()(int row, int k) const {
    return ToFloat(x[row_pair[row] / top_k * stride + k]);
  }
};

struct StoreHidden {
  float* hidden;
  int width;
  Activation activation;
  __device__ void operator()(int row, int column, float gate, float up) const {
    hidden[static_cast<int64_t>(row) * width + column] = Activate(gate, activation) * up;
  }
};

struct LoadHidden {
  const float* hidden;
  int width;
  __device__ float operator()(int row, int k) const {
    return hidden[static_cast<int64_t>(row) * width + k];
  }
};

struct StoreResult {
  float* result;
  const int32_t* row_pair;
  int columns;
  __device__ void operator()(int row, int column, float value, float) const {
    result[static_cast<int64_t>(row_pair[row]) * columns + column] = value;
  }
};

template <typename T>
__global__ void SumKernel(Routing routing, int top_k, int columns, T* out, int64_t stride) {
  for (int i = threadIdx.x; i < columns; i += blockDim.x) {
    float sum = 0;
    for (int k = 0; k < top_k; ++k) {
      const int64_t pair = static_cast<int64_t>(blockIdx.x) * top_k + k;
      sum = fmaf(routing.weight[pair], routing.result[pair * columns + i], sum);
    }
    out[blockIdx.x * stride + i] = FromFloat<T>(sum);
  }
}

ExpertPointers Pointers(std::span<const Tensor> weights) {
  ExpertPointers pointers{};
  for (size_t e = 0; e < weights.size(); ++e) pointers.weight[e] = weights[e].data;
  return pointers;
}

size_t PassBytes(int64_t tokens, int64_t top_k, int64_t width, int64_t columns) {
  return tokens * top_k * (3 * sizeof(float) + (width + columns) * sizeof(float)) +
         (kMaxExperts + 64) * sizeof(float);
}

template <typename T, typename W>
void RunPass(Context& context, const MoeArgs& args, int64_t first, int64_t tokens) {
  const int experts = args.weights.gate.size();
  const int width = args.weights.gate[0].dim(0);
  const int columns = args.x.dim(1);
  const int64_t pairs = tokens * args.top_k;
  auto* scratch =
      static_cast<float*>(context.Scratch(PassBytes(tokens, args.top_k, width, columns)));
  Routing routing;
  routing.hidden = scratch;
  routing.result = routing.hidden + pairs * width;
  routing.weight = routing.result + pairs * columns;
  routing.expert = reinterpret_cast<int32_t*>(routing.weight + pairs);
  routing.row_pair = routing.expert + pairs;
  routing.begin = routing.row_pair + pairs;

  const cudaStream_t stream = context.stream.get();
  const Tensor logits = args.router_logits.Rows(first, tokens);
  const Tensor x = args.x.Rows(first, tokens);
  const Tensor out = args.out.Rows(first, tokens);
  ChooseKernel<<<tokens, kWarp, 0, stream>>>(logits.ptr<float>(), logits.stride[0], experts,
                                             args.top_k, args.normalize, routing);
  GroupKernel<<<1, CeilDiv(experts + 1, kWarp) * kWarp, 0, stream>>>(pairs, experts, routing);
  const LoadToken<T> load{x.ptr<T>(), x.stride[0], routing.row_pair, args.top_k};
  const StoreHidden store{routing.hidden, width, args.activation};
  GroupedKernel<W, LoadToken<T>, StoreHidden, true>
      <<<dim3(CeilDiv(width, kTile), experts), 256, 0, stream>>>(
          Pointers(args.weights.gate), args.weights.gate[0].stride[0], Pointers(args.weights.up),
          args.weights.up[0].stride[0], routing.begin, width, columns, load, store);
  const ExpertPointers down = Pointers(args.weights.down);
  const int64_t down_stride = args.weights.down[0].stride[0];
  GroupedKernel<W, LoadHidden, StoreResult, false>
      <<<dim3(CeilDiv(columns, kTile), experts), 256, 0, stream>>>(
          down, down_stride, down, down_stride, routing.begin, columns, width,
          LoadHidden{routing.hidden, width},
          StoreResult{routing.result, routing.row_pair, columns});
  SumKernel<T>
      <<<tokens, 256, 0, stream>>>(routing, args.top_k, columns, out.ptr<T>(), out.stride[0]);
  CheckLaunch("moe");
}

}  // namespace

size_t MoeScratchBytes(const StepLimits& limits) {
  if (limits.max_experts == 0) return 0;
  const int64_t tokens = limits.max_tokens < kMaxTokens ? limits.max_tokens : kMaxTokens;
  return PassBytes(tokens, limits.max_experts < kMaxTopK ? limits.max_experts : kMaxTopK,
                   limits.max_intermediate, limits.hidden_size);
}

void Moe(Context& context, const MoeArgs& args) {
  const size_t experts = args.weights.gate.size();
  if (experts > kMaxExperts || args.top_k > kMaxTopK) {
    throw std::runtime_error("cuda moe: at most 256 experts and 16 experts per token");
  }
  const int64_t tokens = args.x.dim(0);
  for (int64_t first = 0; first < tokens; first += kMaxTokens) {
    const int64_t count = tokens - first < kMaxTokens ? tokens - first : kMaxTokens;
    DispatchActivation(args.x.dtype, [&](auto type) {
      DispatchFloat(args.weights.gate[0].dtype, [&](auto weight) {
        RunPass<decltype(type), decltype(weight)>(context, args, first, count);
      });
    });
  }
}

}  // namespace palu::cuda
