// The MLP of one layer, dense or a mixture of experts, forward and backward in float32.
#pragma once

#include <vector>

#include "tools/compress/f32_model.h"

namespace palu {

// What the backward pass of one gated MLP needs again, [T, intermediate].
struct MlpActivations {
  MatrixF gate, up, act;
};

// Of one expert, over the tokens that chose it.
struct ExpertActivations {
  std::vector<int> tokens;    // rows of the layer's input
  std::vector<float> weight;  // of the expert's output, per row
  MatrixF x, out;             // [rows, hidden]
  MlpActivations mlp;
};

struct FeedForwardActivations {
  MlpActivations dense;
  MatrixF probabilities;  // the router's softmax over all experts, [T, experts]
  std::vector<ExpertActivations> experts;
};

// x [T, hidden] -> [T, hidden]. Mixture: the experts_per_token most probable experts of a token,
// their probabilities normalised where the model says so (ties: the lower index), as the server
// does it.
MatrixF FeedForward(const ModelConfig& config, const F32LayerWeights& w, const MatrixF& x,
                    FeedForwardActivations* activations);
// Gradient of x for gradient dy of the result, through the router's weights too (the choice of
// experts itself has no gradient).
MatrixF FeedForwardBackward(const ModelConfig& config, const F32LayerWeights& w, const MatrixF& x,
                            const FeedForwardActivations& activations, const MatrixF& dy);

}  // namespace palu
