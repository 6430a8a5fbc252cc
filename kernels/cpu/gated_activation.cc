#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/for_rows.h"

namespace palu::cpu {

void CpuBackend::GatedActivation(const GatedActivationArgs& args) {
  const int64_t width = args.out.dim(1);
  const auto activate =
      args.activation == Activation::kSilu ? kernels_->silu_mul : kernels_->gelu_tanh_mul;
  // The exponential counts for several elements.
  ForRows(pool_, args.out.dim(0), 4 * width, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      activate(args.gate.ptr<float>() + t * args.gate.stride[0],
               args.up.ptr<float>() + t * args.up.stride[0], width,
               args.out.ptr<float>() + t * args.out.stride[0]);
    }
  });
}

}  // namespace palu::cpu
