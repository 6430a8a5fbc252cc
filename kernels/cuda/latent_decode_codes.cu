// The fast decode kernel for codes of any width.
#include "kernels/cuda/decode_launch.cuh"

namespace palu::cuda {

bool LaunchDecodeCodes(Context& context, AttentionParams& p) {
  return p.head_dim == 128 ? LaunchFor<128, Numbers::kCodes>(context, p)
                           : LaunchFor<64, Numbers::kCodes>(context, p);
}

}  // namespace palu::cuda
