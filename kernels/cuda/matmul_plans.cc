#include "kernels/cuda/matmul_plans.h"

#include <stdexcept>
#include <string>

namespace palu::cuda {
namespace {

constexpr size_t kWorkspaceBytes = 32 << 20;
constexpr size_t kMaxPlans = 1024;

void CheckLt(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(std::string("cuda matmul: cuBLASLt ") + what + ": " +
                           cublasLtGetStatusName(status));
}

cudaDataType_t TypeOf(DType type) {
  if (type == DType::kBF16) return CUDA_R_16BF;
  if (type == DType::kF16) return CUDA_R_16F;
  return CUDA_R_32F;
}

// A row-major [rows, columns] array is a column-major [columns, rows] matrix to cuBLAS.
cublasLtMatrixLayout_t LayoutOf(const Tensor& x) {
  cublasLtMatrixLayout_t layout = nullptr;
  CheckLt(cublasLtMatrixLayoutCreate(&layout, TypeOf(x.dtype), x.dim(1), x.dim(0), x.stride[0]),
          "layout");
  return layout;
}

}  // namespace

MatmulPlans::MatmulPlans() : workspace_(kWorkspaceBytes) {
  CheckLt(cublasLtCreate(&handle_), "create");
}

MatmulPlans::~MatmulPlans() {
  Clear();
  cublasLtDestroy(handle_);
}

void MatmulPlans::Clear() {
  for (auto& [key, plan] : plans_) {
    cublasLtMatrixLayoutDestroy(plan.a);
    cublasLtMatrixLayoutDestroy(plan.b);
    cublasLtMatrixLayoutDestroy(plan.c);
    cublasLtMatmulDescDestroy(plan.op);
  }
  plans_.clear();
}

MatmulPlans::Plan& MatmulPlans::Find(const Tensor& x, const Tensor& weight, const Tensor& out,
                                     bool bias) {
  const Key key{x.dim(0),      weight.dim(0), weight.dim(1), x.stride[0], weight.stride[0],
                out.stride[0], x.dtype,       out.dtype,     bias};
  const auto found = plans_.find(key);
  if (found != plans_.end()) return found->second;
  // Prompts come in any number of tokens.
  if (plans_.size() >= kMaxPlans) Clear();

  Plan plan;
  CheckLt(cublasLtMatmulDescCreate(&plan.op, CUBLAS_COMPUTE_32F, CUDA_R_32F), "descriptor");
  const cublasOperation_t transpose = CUBLAS_OP_T;
  CheckLt(cublasLtMatmulDescSetAttribute(plan.op, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                         sizeof(transpose)),
          "transpose");
  plan.a = LayoutOf(weight);
  plan.b = LayoutOf(x);
  plan.c = LayoutOf(out);
  Choose(bias, &plan);
  return plans_.emplace(key, plan).first->second;
}

void MatmulPlans::Choose(bool bias, Plan* plan) {
  if (bias) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    CheckLt(cublasLtMatmulDescSetAttribute(plan->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                           sizeof(epilogue)),
            "epilogue");
  }
  cublasLtMatmulPreference_t preference = nullptr;
  CheckLt(cublasLtMatmulPreferenceCreate(&preference), "preference");
  const size_t bytes = workspace_.bytes();
  CheckLt(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &bytes, sizeof(bytes)),
          "workspace limit");
  cublasLtMatmulHeuristicResult_t result{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, plan->op, plan->a, plan->b, plan->c, plan->c, preference, 1, &result, &count);
  cublasLtMatmulPreferenceDestroy(preference);
  CheckLt(status, "heuristic");
  if (count == 0) throw std::runtime_error("cuda matmul: cuBLASLt knows no algorithm for a shape");
  plan->algo = result.algo;
}

bool MatmulPlans::Run(const MatmulArgs& args, cudaStream_t stream) {
  const bool bias =
      args.bias.defined() && args.bias.dtype == args.out.dtype && args.out.dtype != DType::kF32;
  Plan& plan = Find(args.x, args.weight, args.out, bias);
  if (bias) {
    CheckLt(cublasLtMatmulDescSetAttribute(plan.op, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                           &args.bias.data, sizeof(args.bias.data)),
            "bias");
  }
  const float alpha = 1.0f;
  const float beta = args.accumulate ? 1.0f : 0.0f;
  CheckLt(cublasLtMatmul(handle_, plan.op, &alpha, args.weight.data, plan.a, args.x.data, plan.b,
                         &beta, args.out.data, plan.c, args.out.data, plan.c, &plan.algo,
                         workspace_.data(), workspace_.bytes(), stream),
          "matmul");
  return bias || !args.bias.defined();
}

}  // namespace palu::cuda
