// The fast decode kernel for bf16 rows.
#include "kernels/cuda/decode_launch.cuh"

namespace palu::cuda {

bool LaunchDecodeBF16(Context& context, AttentionParams& p) {
  return p.head_dim == 128 ? LaunchFor<128, Numbers::kBF16>(context, p)
                           : LaunchFor<64, Numbers::kBF16>(context, p);
}

}  // namespace palu::cuda
