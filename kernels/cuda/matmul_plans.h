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

  // x and weight both bf16 or both f16, out of that type or f32. False when the bias is left to the
  // caller: the library adds one of the output's own 16-bit type only.
  bool Run(const MatmulArgs& args, cudaStream_t stream);

 private:
  // Everything that the choice of algorithm may depend on: T, N, K, leading dimensions, types,
  // bias.
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, DType, DType, bool>;
  struct Plan {
    cublasLtMatmulDesc_t op = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
    cublasLtMatmulAlgo_t algo{};
  };
  Plan& Find(const Tensor& x, const Tensor& weight, const Tensor& out, bool bias);
  void Choose(bool bias, Plan* plan);
  void Clear();

  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<Key, Plan> plans_;
};

}  // namespace palu::cuda
