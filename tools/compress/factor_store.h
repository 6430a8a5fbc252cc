// The factors of every layer, and the simulated cache of any choice of ranks and bits from them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "engine/cache/latent_layout.h"
#include "engine/model/safetensors.h"
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

// What ranks are chosen by.
struct GroupSpectrum {
  VectorD loss;  // as in Factors

  double LossFromRank(int rank) const { return loss.tail(loss.size() - rank).sum(); }
};

struct ProjectionFactors {
  int heads_per_group = 1;
  int width = 0;  // heads_per_group * head_dim
  std::vector<GroupSpectrum> groups;
};

// Spectra lie in memory; factors too, or in a file that is written layer by layer and mapped, so
// that memory does not grow with the model. Immutable after Build; thread-safe.
class FactorStore {
 public:
  struct Options {
    Weighting weighting = Weighting::kKfac;
    int key_heads_per_group = 1, value_heads_per_group = 1;
    double input_damping = 1e-6, output_damping = 1e-4;  // times the mean of the diagonal
    uint64_t seed = 0;                                   // signs of rotations
    std::string file;                                    // of the factors; empty: in memory
  };

  // Layer by layer: only one layer's weights are read at a time. Throws CompressError, LoadError.
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
  using Group = std::tuple<int, bool, int>;  // layer, key, group
  struct Matrices {
    MatrixF up;    // transposed, so that any rank is a prefix: [rank, heads_per_group * head_dim]
    MatrixF down;  // [rank, hidden]
  };
  // The first rank components.
  Matrices Leading(const Group& group, int rank) const;

  std::vector<LayerFactors> layers_;
  std::map<Group, Matrices> in_memory_;
  std::optional<Safetensors> file_;
  uint64_t seed_ = 0;
};

}  // namespace palu
