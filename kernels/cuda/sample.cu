// Sampling, one block per row; the same definition as the CPU's (kernels/cpu/sample.cc): adjusted
// logits, then greedy or the inverse of the cumulative distribution at a uniform number that
// depends on (seed, draw index) alone. Filters work on a sorted list of the candidates that can
// matter, found by a bound: rarely more than a few thousand, so the sort stays in shared memory.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/sample_block.cuh"

namespace palu::cuda {
namespace {

// Below this temperature the choice is greedy.
constexpr float kGreedyTemperature = 1e-5f;
// Rows that are worked on at a time; each needs scratch memory.
constexpr int kMaxSlots = 64;

// SampleArgs by value; undefined tensors are null.
struct Params {
  const float* logits;
  int64_t stride;
  int rows, vocabulary;
  const float *temperature, *top_p, *min_p, *repetition, *presence, *frequency, *bias_values;
  const int32_t *top_k, *forced, *num_logprobs, *history, *history_offsets, *prompt_lens;
  const int32_t *bias_tokens, *bias_offsets, *mask, *mask_rows;
  const int64_t *seed, *draw_index;
  int64_t mask_stride, top_tokens_stride, top_logprobs_stride;
  int32_t *tokens, *ranks, *top_tokens;
  float *logprobs, *top_logprobs;
  Candidate* lists;  // [slots, list_size]
  float* work;       // [slots, vocabulary]
  int32_t* counts;   // [slots, vocabulary]
  int64_t list_size;
};

template <typename T>
__device__ T Entry(const T* values, int row, T otherwise) {
  return values != nullptr ? values[row] : otherwise;
}

__device__ bool HasEntries(const int32_t* offsets, int row) {
  return offsets != nullptr && offsets[row] < offsets[row + 1];
}

__device__ bool IsAdjusted(const Params& p, int row) {
  return HasEntries(p.bias_offsets, row) || HasEntries(p.history_offsets, row) ||
         (p.mask != nullptr && Entry(p.mask_rows, row, -1) >= 0);
}

// Copies the row and adds bias, penalties and mask.
__device__ void Adjust(const Params& p, int row, const float* raw, float* work, int32_t* counts) {
  for (int t = threadIdx.x; t < p.vocabulary; t += kSampleThreads) work[t] = raw[t];
  __syncthreads();
  if (p.bias_offsets != nullptr && threadIdx.x == 0) {
    for (int i = p.bias_offsets[row]; i < p.bias_offsets[row + 1]; ++i) {
      work[p.bias_tokens[i]] += p.bias_values[i];
    }
  }
  const float repetition = Entry(p.repetition, row, 1.0f);
  const float presence = Entry(p.presence, row, 0.0f);
  const float frequency = Entry(p.frequency, row, 0.0f);
  if (p.history_offsets != nullptr &&
      (repetition != 1.0f || presence != 0.0f || frequency != 0.0f)) {
    const int begin = p.history_offsets[row];
    const int end = p.history_offsets[row + 1];
    const int outputs = begin + Entry(p.prompt_lens, row, 0);
    for (int i = begin + threadIdx.x; i < end; i += kSampleThreads) counts[p.history[i]] = 0;
    __syncthreads();
    for (int i = outputs + threadIdx.x; i < end; i += kSampleThreads) {
      atomicAdd(&counts[p.history[i]], 1);
    }
    __syncthreads();
    // The thread that takes a token's count leaves -1, so that each token is adjusted once.
    for (int i = begin + threadIdx.x; i < end; i += kSampleThreads) {
      const int token = p.history[i];
      const int count = atomicExch(&counts[token], -1);
      if (count < 0) continue;
      float logit = work[token];
      logit = logit > 0.0f ? logit / repetition : logit * repetition;
      if (count > 0) logit -= presence + frequency * static_cast<float>(count);
      work[token] = logit;
    }
  }
  __syncthreads();
  const int mask_row = Entry(p.mask_rows, row, -1);
  if (p.mask != nullptr && mask_row >= 0) {
    const int32_t* words = p.mask + mask_row * p.mask_stride;
    for (int t = threadIdx.x; t < p.vocabulary; t += kSampleThreads) {
      if ((words[t / 32] >> (t % 32) & 1) == 0) work[t] = -INFINITY;
    }
  }
  __syncthreads();
}

struct Distribution {
  const float* logits;
  int vocabulary;
  float largest, temperature;

  // Relative to the most probable token.
  __device__ float operator()(int token) const { return Of(logits[token]); }
  __device__ float Of(float logit) const {
    const float scaled = (logit - largest) / temperature;
    return scaled <= 0.0f ? expf(scaled) : 0.0f;
  }
};

// In token order: each warp owns a contiguous stretch, the one that u falls into is walked again.
__device__ int DrawFromAll(const Distribution& distribution, float floor, double u, int best,
                           SampleShared& shared) {
  constexpr int kWarps = kSampleThreads / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int stretch = (distribution.vocabulary + kWarps - 1) / kWarps;
  const int begin = warp * stretch;
  const int end = min(begin + stretch, distribution.vocabulary);
  double sum = 0;
  for (int t = begin + lane; t < end; t += kWarp) {
    const float probability = distribution(t);
    if (probability >= floor) sum += probability;
  }
  sum = WarpSumDouble(sum);
  if (lane == 0) shared.sums[warp] = sum;
  if (threadIdx.x == 0) shared.token = best;
  __syncthreads();
  double total = 0;
  double before = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp) before = total;
    total += shared.sums[w];
  }
  const double target = u * total;
  if (before <= target && target < before + shared.sums[warp]) {
    int found = -1;
    for (int t0 = begin; t0 < end && found < 0; t0 += kWarp) {
      const float probability = t0 + lane < end ? distribution(t0 + lane) : 0.0f;
      double inclusive = WarpScanDouble(probability >= floor ? probability : 0.0);
      const unsigned hit = __ballot_sync(~0u, before + inclusive > target && probability > 0.0f);
      if (hit != 0) found = t0 + __ffs(hit) - 1;
      before += __shfl_sync(~0u, inclusive, kWarp - 1);
    }
    if (lane == 0 && found >= 0) shared.token = found;
  }
  __syncthreads();
  return shared.token;
}

// By warp 0: position of the first of the `count` sorted candidates at which the sum of those with
// probability >= floor exceeds target (or reaches it, if inclusive); count when none does. *sum
// gets the whole sum up to there.
__device__ int Walk(const Distribution& distribution, const Candidate* list, int count, float floor,
                    double target, bool inclusive, double* sum) {
  const int lane = threadIdx.x % kWarp;
  double before = 0;
  for (int i0 = 0; i0 < count; i0 += kWarp) {
    const float probability =
        i0 + lane < count ? distribution(CandidateToken(list[i0 + lane])) : -1.0f;
    const bool counted = probability >= floor && probability >= 0.0f;
    const double scan = before + WarpScanDouble(counted ? probability : 0.0);
    const bool over = counted && (inclusive ? scan >= target : scan > target);
    const unsigned hit = __ballot_sync(~0u, over);
    before = __shfl_sync(~0u, scan, kWarp - 1);
    if (hit != 0) return i0 + __ffs(hit) - 1;
  }
  *sum = before;
  return count;
}

__device__ int DrawFromTop(const Distribution& distribution, int top_k, float top_p, float floor,
                           double u, int best, Candidate* list, SampleShared& shared) {
  const int vocabulary = distribution.vocabulary;
  double total = 0;
  float bound = -INFINITY;
  float negligible = 0.0f;
  if (top_k > 0) {
    bound = LargestBound(distribution.logits, vocabulary, min(top_k, vocabulary), shared);
  } else {
    for (int t = threadIdx.x; t < vocabulary; t += kSampleThreads) total += distribution(t);
    total = BlockSumDouble(total, shared);
    negligible = static_cast<float>((1.0 - top_p) * total / vocabulary * 0.999);
  }
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  for (int t = threadIdx.x; t < vocabulary; t += kSampleThreads) {
    const float logit = distribution.logits[t];
    if (logit >= bound && distribution.Of(logit) > negligible) {
      list[atomicAdd(&shared.count, 1)] = MakeCandidate(logit, t);
    }
  }
  __syncthreads();
  const int count = shared.count;
  const Candidate* sorted = SortCandidates(list, count, shared);
  if (threadIdx.x < kWarp) {
    int limit = top_k > 0 ? min(top_k, count) : count;
    double unused = 0;
    if (top_k > 0) Walk(distribution, sorted, limit, 0.0f, INFINITY, false, &total);
    if (top_p < 1.0f) {
      limit = min(limit, 1 + Walk(distribution, sorted, limit, 0.0f, top_p * total, true, &unused));
    }
    double kept = 0;
    Walk(distribution, sorted, limit, floor, INFINITY, false, &kept);
    const int place = Walk(distribution, sorted, limit, floor, u * kept, false, &unused);
    if (threadIdx.x == 0) shared.token = place < limit ? CandidateToken(sorted[place]) : best;
  }
  __syncthreads();
  return shared.token;
}

__device__ int Choose(const Params& p, int row, const float* raw, SampleShared& shared) {
  const float* logits = raw;
  if (IsAdjusted(p, row)) {
    float* work = p.work + static_cast<int64_t>(blockIdx.x) * p.vocabulary;
    Adjust(p, row, raw, work, p.counts + static_cast<int64_t>(blockIdx.x) * p.vocabulary);
    logits = work;
  }
  const Best best = BlockBest(logits, p.vocabulary, Best{INFINITY, -1}, shared);
  const float temperature = Entry(p.temperature, row, 0.0f);
  if (temperature < kGreedyTemperature || !isfinite(best.logit)) return best.token;
  const Distribution distribution{logits, p.vocabulary, best.logit, temperature};
  const double u =
      UniformNumber(Entry(p.seed, row, int64_t{0}), Entry(p.draw_index, row, int64_t{0}));
  const float floor = Entry(p.min_p, row, 0.0f);
  const int top_k = Entry(p.top_k, row, 0);
  const float top_p = Entry(p.top_p, row, 1.0f);
  if (top_k <= 0 && top_p >= 1.0f) {
    return DrawFromAll(distribution, floor, u, best.token, shared);
  }
  return DrawFromTop(distribution, top_k, top_p, floor, u, best.token,
                     p.lists + blockIdx.x * p.list_size, shared);
}

// Log-probabilities and rank under the raw distribution.
__device__ void Report(const Params& p, int row, const float* raw, int token, int wanted,
                       SampleShared& shared) {
  Best best = BlockBest(raw, p.vocabulary, Best{INFINITY, -1}, shared);
  double sum = 0;
  double larger = 0;
  const float chosen = raw[token];
  for (int t = threadIdx.x; t < p.vocabulary; t += kSampleThreads) {
    sum += expf(raw[t] - best.logit);
    larger += raw[t] > chosen ? 1.0 : 0.0;
  }
  sum = BlockSumDouble(sum, shared);
  larger = BlockSumDouble(larger, shared);
  const double log_total = best.logit + log(sum);
  if (threadIdx.x == 0) {
    p.logprobs[row] = static_cast<float>(chosen - log_total);
    p.ranks[row] = 1 + static_cast<int>(larger);
  }
  for (int i = 0; i < min(wanted, p.vocabulary); ++i) {
    if (threadIdx.x == 0) {
      p.top_tokens[row * p.top_tokens_stride + i] = best.token;
      p.top_logprobs[row * p.top_logprobs_stride + i] = static_cast<float>(best.logit - log_total);
    }
    best = BlockBest(raw, p.vocabulary, best, shared);
  }
}

__global__ void __launch_bounds__(kSampleThreads) SampleKernel(Params p) {
  __shared__ SampleShared shared;
  for (int row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const float* raw = p.logits + row * p.stride;
    int token = Entry(p.forced, row, -1);
    if (token < 0) token = Choose(p, row, raw, shared);
    if (threadIdx.x == 0) p.tokens[row] = token;
    const int wanted = Entry(p.num_logprobs, row, -1);
    if (wanted >= 0) Report(p, row, raw, token, min(wanted, kMaxLogprobs), shared);
    __syncthreads();
  }
}

int64_t ListSize(int64_t vocabulary) {
  int64_t size = 1;
  while (size < vocabulary) size *= 2;
  return size;
}

size_t SlotBytes(int64_t vocabulary) {
  return ListSize(vocabulary) * sizeof(Candidate) + vocabulary * (sizeof(float) + sizeof(int32_t)) +
         16;
}

int SlotsFor(int64_t rows) { return static_cast<int>(rows < kMaxSlots ? rows : kMaxSlots); }

template <typename T>
const T* Data(const Tensor& tensor) {
  return tensor.defined() ? tensor.ptr<T>() : nullptr;
}

Params ParamsOf(const SampleArgs& args) {
  Params p{};
  p.logits = args.logits.ptr<float>();
  p.stride = args.logits.stride[0];
  p.rows = args.logits.dim(0);
  p.vocabulary = args.logits.dim(1);
  p.temperature = Data<float>(args.temperature);
  p.top_k = Data<int32_t>(args.top_k);
  p.top_p = Data<float>(args.top_p);
  p.min_p = Data<float>(args.min_p);
  p.seed = Data<int64_t>(args.seed);
  p.draw_index = Data<int64_t>(args.draw_index);
  p.forced = Data<int32_t>(args.forced_token);
  p.num_logprobs = Data<int32_t>(args.num_logprobs);
  p.repetition = Data<float>(args.repetition_penalty);
  p.presence = Data<float>(args.presence_penalty);
  p.frequency = Data<float>(args.frequency_penalty);
  p.history = Data<int32_t>(args.history);
  p.history_offsets = Data<int32_t>(args.history_offsets);
  p.prompt_lens = Data<int32_t>(args.prompt_lens);
  p.bias_tokens = Data<int32_t>(args.bias_tokens);
  p.bias_values = Data<float>(args.bias_values);
  p.bias_offsets = Data<int32_t>(args.bias_offsets);
  p.mask = Data<int32_t>(args.mask);
  p.mask_stride = args.mask.stride[0];
  p.mask_rows = Data<int32_t>(args.mask_rows);
  p.tokens = args.tokens.ptr<int32_t>();
  p.logprobs = args.logprobs.ptr<float>();
  p.ranks = args.ranks.ptr<int32_t>();
  p.top_tokens = args.top_tokens.ptr<int32_t>();
  p.top_tokens_stride = args.top_tokens.stride[0];
  p.top_logprobs = args.top_logprobs.ptr<float>();
  p.top_logprobs_stride = args.top_logprobs.stride[0];
  return p;
}

}  // namespace

size_t SampleScratchBytes(const StepLimits& limits) {
  const int64_t rows = limits.max_tokens + limits.max_sequences;
  return SlotBytes(limits.vocab_size) * SlotsFor(rows < 1 ? 1 : rows);
}

void Sample(Context& context, const SampleArgs& args) {
  Params p = ParamsOf(args);
  if (p.rows == 0) return;
  const int slots = SlotsFor(p.rows);
  p.list_size = ListSize(p.vocabulary);
  p.lists = static_cast<Candidate*>(context.Scratch(SlotBytes(p.vocabulary) * slots));
  p.work = reinterpret_cast<float*>(p.lists + slots * p.list_size);
  p.counts = reinterpret_cast<int32_t*>(p.work + static_cast<int64_t>(slots) * p.vocabulary);
  SampleKernel<<<slots, kSampleThreads, 0, context.stream.get()>>>(p);
  CheckLaunch("sample");
}

}  // namespace palu::cuda
