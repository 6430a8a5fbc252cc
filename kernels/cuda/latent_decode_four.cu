// The fast decode kernel for 4-bit codes of head_dim 128.
#include "kernels/cuda/decode_launch.cuh"

namespace palu::cuda {

bool LaunchDecodeFour(Context& context, AttentionParams& p) {
  return LaunchFor<128, Numbers::kFour>(context, p);
}

}  // namespace palu::cuda
