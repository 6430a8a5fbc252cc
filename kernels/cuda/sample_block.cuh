// Block-wide building blocks of sampling: sums, largest elements, a candidate sort, random numbers.
#pragma once

#include "kernels/cuda/common.cuh"

namespace palu::cuda {

inline constexpr int kSampleThreads = 1024;
inline constexpr int kSortedInShared = 4096;

// (descending logit, ascending token) as one ascending number.
using Candidate = uint64_t;

struct SampleShared {
  Candidate sort[kSortedInShared];
  double sums[kWarp];
  float logits[kWarp];
  int tokens[kWarp];
  int count;
  int token;
};

__device__ inline uint32_t Ascending(float v) {
  const uint32_t bits = __float_as_uint(v);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ inline Candidate MakeCandidate(float logit, int token) {
  return static_cast<uint64_t>(~Ascending(logit)) << 32 | static_cast<uint32_t>(token);
}

__device__ inline int CandidateToken(Candidate c) { return static_cast<int>(c & 0xffffffffu); }

__device__ inline double WarpSumDouble(double v) {
  for (int mask = 16; mask > 0; mask >>= 1) v += __shfl_xor_sync(~0u, v, mask);
  return v;
}

// Inclusive prefix sum over the lanes.
__device__ inline double WarpScanDouble(double v) {
  const int lane = threadIdx.x % kWarp;
  for (int step = 1; step < kWarp; step *= 2) {
    const double below = __shfl_up_sync(~0u, v, step);
    if (lane >= step) v += below;
  }
  return v;
}

__device__ inline double BlockSumDouble(double v, SampleShared& shared) {
  v = WarpSumDouble(v);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared.sums[threadIdx.x / kWarp] = v;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < kSampleThreads / kWarp; ++w) total += shared.sums[w];
  __syncthreads();
  return total;
}

struct Best {
  float logit;
  int token;
};

// a stands before b in descending order, lower token first among equals.
__device__ inline bool Before(Best a, Best b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

inline constexpr int kNoToken = 0x7fffffff;

// Of this thread's elements the largest, the lowest token among equals. Several reads are under way
// at once: one block has the whole row to read.
__device__ inline Best ThreadLargest(const float* logits, int vocabulary) {
  constexpr int kBatch = 8;
  Best best{-INFINITY, kNoToken};
  const auto take = [&](float logit, int token) {
    if (logit > best.logit) best = {logit, token};
  };
  const bool aligned = reinterpret_cast<uintptr_t>(logits) % 16 == 0;
  const int vectors = aligned ? vocabulary / 4 : 0;
  for (int first = threadIdx.x; first < vectors; first += kBatch * kSampleThreads) {
    float4 four[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int i = first + b * kSampleThreads;
      four[b] = reinterpret_cast<const float4*>(logits)[min(i, vectors - 1)];
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int token = min(first + b * kSampleThreads, vectors - 1) * 4;
      take(four[b].x, token);
      take(four[b].y, token + 1);
      take(four[b].z, token + 2);
      take(four[b].w, token + 3);
    }
  }
  for (int t = vectors * 4 + threadIdx.x; t < vocabulary; t += kSampleThreads) take(logits[t], t);
  return best;
}

// The first element after `last` in descending order. NaN never wins; token 0 when nothing is left.
__device__ inline Best BlockBest(const float* logits, int vocabulary, Best last,
                                 SampleShared& shared) {
  const int lane = threadIdx.x % kWarp;
  Best best{-INFINITY, kNoToken};
  if (last.token < 0) {
    best = ThreadLargest(logits, vocabulary);
  } else {
    for (int t = threadIdx.x; t < vocabulary; t += kSampleThreads) {
      const Best here{logits[t], t};
      if (Before(last, here) && Before(here, best)) best = here;
    }
  }
  for (int mask = 16; mask > 0; mask >>= 1) {
    const Best other{__shfl_xor_sync(~0u, best.logit, mask),
                     __shfl_xor_sync(~0u, best.token, mask)};
    if (Before(other, best)) best = other;
  }
  __syncthreads();
  if (lane == 0) {
    shared.logits[threadIdx.x / kWarp] = best.logit;
    shared.tokens[threadIdx.x / kWarp] = best.token;
  }
  __syncthreads();
  for (int w = 0; w < kSampleThreads / kWarp; ++w) {
    const Best other{shared.logits[w], shared.tokens[w]};
    if (Before(other, best)) best = other;
  }
  __syncthreads();
  if (best.token == kNoToken) best.token = 0;
  return best;
}

// Ascending bitonic sort of size (a power of two) elements by the whole block.
__device__ inline void BitonicSort(Candidate* list, int size) {
  for (int run = 2; run <= size; run *= 2) {
    for (int step = run / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += kSampleThreads) {
        const int low = 2 * step * (i / step) + i % step;
        const int high = low + step;
        const bool ascending = (low & run) == 0;
        const Candidate a = list[low];
        const Candidate b = list[high];
        if ((a > b) == ascending) {
          list[low] = b;
          list[high] = a;
        }
      }
      __syncthreads();
    }
  }
}

// Sorts count candidates, in shared memory where they fit; returns where they lie. list has room
// for the next power of two.
__device__ inline const Candidate* SortCandidates(Candidate* list, int count,
                                                  SampleShared& shared) {
  int size = 1;
  while (size < count) size *= 2;
  Candidate* target = size <= kSortedInShared ? shared.sort : list;
  for (int i = threadIdx.x; i < size; i += kSampleThreads) {
    if (i >= count) {
      target[i] = ~Candidate{0};
    } else if (target != list) {
      target[i] = list[i];
    }
  }
  __syncthreads();
  BitonicSort(target, size);
  return target;
}

// A logit that at least `wanted` elements reach: the wanted-th of the threads' largest.
__device__ inline float LargestBound(const float* logits, int vocabulary, int wanted,
                                     SampleShared& shared) {
  if (wanted > kSampleThreads) return -INFINITY;
  float largest = -INFINITY;
  for (int t = threadIdx.x; t < vocabulary; t += kSampleThreads) {
    largest = fmaxf(largest, logits[t]);
  }
  shared.sort[threadIdx.x] = MakeCandidate(largest, threadIdx.x);
  __syncthreads();
  BitonicSort(shared.sort, kSampleThreads);
  const uint32_t ordered = ~static_cast<uint32_t>(shared.sort[wanted - 1] >> 32);
  __syncthreads();
  return __uint_as_float((ordered & 0x80000000u) != 0 ? ordered & 0x7fffffffu : ~ordered);
}

__device__ inline uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// In [0, 1), a function of the two numbers alone; as on the CPU.
__device__ inline double UniformNumber(int64_t seed, int64_t draw_index) {
  const auto a = static_cast<uint64_t>(seed);
  const auto b = static_cast<uint64_t>(draw_index);
  return static_cast<double>(Mix(Mix(a) ^ Mix(~b)) >> 11) * 0x1p-53;
}

}  // namespace palu::cuda
