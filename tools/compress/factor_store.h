// The factors of every layer, and the simulated cache of any choice of ranks and bits from them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/cache/latent_layout.h"
#include "tools/compress/cache_simulation.h"
#include "tools/compress/calibration.h"
#include "tools/compress/decompose.h"

namespace palu {

enum class Weighting {
  kPalu,    // outputs count alike (whitened SVD)
  kOutput,  // keys by the energy of their queries, values by W_o^T W_o; no gradient
  kKfac,    // by the covariance of the outputs' gradients
};

// A choice for every layer: one LayerSpec each. Low-rank projections with an IntN format have their
// rotation folded into the factors (LatentFormat; hadamard stays false).
using CompressionPlan = std::vector<LayerSpec>;

// Bytes of a cached token, scales, zeros and padding included, in blocks of 16 tokens.
double BytesPerToken(const CompressionPlan& plan);
// Of the 16-bit dense cache of the same model.
double UncompressedBytesPerToken(const ModelConfig& config);

struct ProjectionFactors {
  int heads_per_group = 1;
  std::vector<Factors> groups;
};

// Immutable after Build; thread-safe.
class FactorStore {
 public:
  struct Options {
    Weighting weighting = Weighting::kKfac;
    int key_heads_per_group = 1, value_heads_per_group = 1;
    double input_damping = 1e-6, output_damping = 1e-4;  // times the mean of the diagonal
    uint64_t seed = 0;                                   // signs of rotations
  };

  // Layer by layer: only one layer's weights are read at a time. Throws CompressError.
  static FactorStore Build(F32Model* model, const Statistics& statistics, const Options& options,
                           const CalibrationProgress& progress);

  const ProjectionFactors& Of(int layer, bool key) const {
    return key ? layers_[layer].key : layers_[layer].value;
  }
  int num_layers() const { return static_cast<int>(layers_.size()); }

  // Factors of one group cut to rank and, for IntN formats, rotated; rounded to f16 as stored.
  struct Stored {
    MatrixF up;    // [heads_per_group * head_dim, rank]
    MatrixF down;  // [rank, hidden]
  };
  Stored Cut(int layer, bool key, int group, int rank, LatentFormat format) const;

  // What the cache does to a projection under spec; head_dim is the model's.
  ProjectionSimulation Simulate(int layer, bool key, const ProjectionSpec& spec,
                                int head_dim) const;

 private:
  struct LayerFactors {
    ProjectionFactors key, value;
  };
  std::vector<LayerFactors> layers_;
  uint64_t seed_ = 0;
};

}  // namespace palu
