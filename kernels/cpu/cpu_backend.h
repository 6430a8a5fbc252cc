// The CPU backend: f32 activations, weights as stored (f32, bf16, f16), one loop per op over a
// thread pool, inner loops by instruction set (kernel_table.h).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/scratch.h"

namespace palu::cpu {

// Owned by the program; ops and Reserve are called by one thread at a time, Allocate and Free by
// any. Every op runs to completion before it returns.
class CpuBackend : public Backend {
 public:
  // cpus: as of ThreadPool. nodes: NUMA nodes that memory is spread over; empty: left to the
  // system.
  CpuBackend(const KernelTable* kernels, int threads, std::vector<int> cpus = {},
             std::vector<int> nodes = {});

  std::string name() const override { return "cpu"; }
  std::string isa() const override { return kernels_->name; }
  DType activation_dtype() const override { return DType::kF32; }
  bool host_memory() const override { return true; }
  int threads() const { return pool_.size(); }

  Buffer Allocate(size_t bytes) override;
  void Free(void* data, size_t bytes) override;
  size_t FreeBytes() const override;
  size_t TotalBytes() const override;
  void CopyToDevice(void* dst, const void* src, size_t bytes) override;
  void CopyToHost(void* dst, const void* src, size_t bytes) override;
  void CopyOnDevice(void* dst, const void* src, size_t bytes) override;
  void Synchronize() override {}

  size_t Reserve(const StepLimits& limits) override;
  bool HasWeightFormat(WeightFormat format) const override { return true; }
  Buffer PackWeight(const Tensor& weight, WeightFormat format) override;
  Buffer PackUp(const Tensor& up, LatentFormat format, int head_dim, int rotary_dim) override;
  void EnterThread() override { pool_.EnterThread(); }
  void RunStep(uint64_t key, const std::function<void()>& fn) override { fn(); }

  void Embedding(const EmbeddingArgs& args) override;
  void RmsNorm(const RmsNormArgs& args) override;
  void Matmul(const MatmulArgs& args) override;
  void Matmuls(std::span<const MatmulArgs> products) override;
  void Add(const AddArgs& args) override;
  void Rope(const RopeArgs& args) override;
  void Hadamard(const HadamardArgs& args) override;
  void GatedActivation(const GatedActivationArgs& args) override;
  void Moe(const MoeArgs& args) override;
  void LatentWrite(const LatentWriteArgs& args) override;
  void LatentAttention(const LatentAttentionArgs& args) override;
  void GatherRows(const GatherRowsArgs& args) override;
  void Sample(const SampleArgs& args) override;

 private:
  // matmul.cc: a product among those that run together.
  struct ProductPlan {
    const MatmulArgs* args = nullptr;
    int64_t first_task = 0;
    int64_t row_block = 0, row_blocks = 0;  // rows of a task, and how many such
    int64_t chunk = 0;                      // columns of a task
  };
  static constexpr size_t kMaxProducts = 4;
  void RunProduct(const ProductPlan& plan, int64_t task, int thread);
  void QuantizeRows(const Tensor& x);
  void QuantChunk(const MatmulArgs& args, int64_t first, int64_t cols);
  void FloatChunk(const MatmulArgs& args, int64_t first_row, int64_t rows, int64_t first,
                  int64_t cols, int thread);
  void PackedMatmul(const MatmulArgs& args);

  const KernelTable* kernels_;
  ThreadPool pool_;
  const std::vector<int> nodes_;
  Scratch scratch_;
};

// Throws std::runtime_error naming options.cpu_isa when the processor or the build lacks it.
std::unique_ptr<Backend> CreateCpuBackend(const BackendOptions& options);

}  // namespace palu::cpu
