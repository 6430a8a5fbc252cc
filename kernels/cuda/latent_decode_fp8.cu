// The fast decode kernel for fp8 rows.
#include "kernels/cuda/decode_launch.cuh"

namespace palu::cuda {

bool LaunchDecodeFp8(Context& context, AttentionParams& p) {
  return p.head_dim == 128 ? LaunchFor<128, Numbers::kFp8>(context, p)
                           : LaunchFor<64, Numbers::kFp8>(context, p);
}

}  // namespace palu::cuda
