// Times single ops of a backend beside the peaks that it reaches in the same run.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/cache/latent_layout.h"
#include "engine/model/dummy_checkpoint.h"
#include "kernels/backend.h"

namespace palu::bench {

// One op at one size.
struct KernelResult {
  std::string op, size;
  double seconds = 0;  // median over the repetitions
  double bytes = 0;    // that it must move: every input read once, every output written once
  double flops = 0;    // that it must do; 0: bound by bytes
};

// What the device reaches: a large copy (bytes read plus bytes written) and a large product.
struct Peaks {
  double bytes_per_second = 0, flops_per_second = 0;
};

struct KernelOptions {
  std::vector<int> rows = {1, 4, 8, 16, 32, 64, 512, 2048};  // of matrix products
  std::vector<int> contexts = {4096, 16384};                 // of attention
  std::vector<int> chunks = {1, 512, 2048};                  // queries of attention; 1: decode
  int batch = 1;                                             // sequences of a decode
  int repetitions = 7;
};

// Seconds of calls that are queued one after the other: as one recorded step where the backend can,
// so that the time of launching them is left out. Not thread-safe; borrows the backend.
class CallTimer {
 public:
  CallTimer(Backend* backend, int repetitions) : backend_(*backend), repetitions_(repetitions) {}
  // Of one call of fn, which gets the number of the call; median over the repetitions.
  // record: as a recorded step.
  double Time(const std::function<void(int)>& fn, bool record = true);

 private:
  Backend& backend_;
  const int repetitions_;
};

// On random numbers.
Peaks MeasurePeaks(Backend* backend, int repetitions);

// Ops in the shapes of one layer of a model. Weights, latents and queries are random; they rotate
// through more memory than the device's cache holds. Not thread-safe; borrows the backend.
class KernelBench {
 public:
  // Throws LoadError when recipe or options do not fit the model.
  KernelBench(Backend* backend, const DummyModel& model, const CacheOptions& cache,
              const KernelOptions& options);

  std::vector<KernelResult> Run();

 private:
  Tensor Random(DType dtype, std::initializer_list<int64_t> shape);
  Tensor Ints(const std::vector<int32_t>& values);
  void Products(std::vector<KernelResult>* results);
  void Attention(int context, int queries, std::vector<KernelResult>* results);
  void Write(int tokens, std::vector<KernelResult>* results);
  LatentProjection Projection(const ProjectionSpec& spec,
                              const std::vector<LatentSegment>& segments,
                              std::vector<Tensor>* factors);

  Backend& backend_;
  const KernelOptions options_;
  ModelConfig config_;
  LayerSpec spec_;
  std::vector<Buffer> buffers_;
  CallTimer timer_;
};

}  // namespace palu::bench
