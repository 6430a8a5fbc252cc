// cuBLASLt with its heuristics remembered by shape.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <tuple>

#include "kernels/backend.h"
#include "kernels/cuda/cuda_raii.h"

namespace palu::cuda {

// Matrix products whose operands share one 16-bit type. Used by one thread at a time.
class MatmulPlans {
 public:
  MatmulPlans();
  ~MatmulPlans();
  MatmulPlans(const MatmulPlans&) = delete;
  MatmulPlans& operator=(const MatmulPlans&) = delete;

  // out = x weight^T (+ out). x [T, K] and weight [N, K] both bf16 or both f16, out [T, N] of that
  // type or f32. The bias is the caller's.
  void Run(const Tensor& x, const Tensor& weight, const Tensor& out, bool accumulate,
           cudaStream_t stream);

 private:
  // Everything that the choice of algorithm may depend on: T, N, K, leading dimensions, types.
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, DType, DType>;
  struct Plan {
    cublasLtMatmulDesc_t op = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
    cublasLtMatmulAlgo_t algo{};
  };
  const Plan& Find(const Tensor& x, const Tensor& weight, const Tensor& out);

  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<Key, Plan> plans_;
};

}  // namespace palu::cuda
