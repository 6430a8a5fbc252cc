// The arithmetic of the latent cache on whole float32 matrices: what a stored row reads back as. It
// lets a search try ranks and bits without building a checkpoint; palu-eval measures the real
// cache.
#pragma once

#include <memory>
#include <vector>

#include "kernels/latent_format.h"
#include "tools/compress/matrix.h"

namespace palu {

// Every run of width columns of x [T, n * width] is stored as one group in the given format and
// read back (see LatentFormat).
void StoreAndRead(MatrixF* x, int width, LatentFormat format);

// Multiplies every run of width columns by the block Hadamard matrix of the largest power of two
// that divides width; its own inverse.
void BlockHadamard(MatrixF* x, int width);

// One projection (K or V) of one layer. Immutable when shared.
struct ProjectionSimulation {
  LatentFormat format = LatentFormat::kF32;
  // Low rank: per group up [s * head_dim, rank] and down [rank, hidden]. Empty: dense.
  std::vector<MatrixF> up, down;
  int dense_width = 0;    // dense: numbers that share a scale
  bool hadamard = false;  // dense: rows are rotated before they are stored

  bool dense() const { return up.empty(); }
};

struct LayerSimulation {
  std::shared_ptr<const ProjectionSimulation> key, value;
};

// Low rank: x [T, hidden] through the stored latents, [T, kv_heads * head_dim], without bias.
MatrixF ThroughLatents(const ProjectionSimulation& projection, const MatrixF& x);
// Dense: heads [T, kv_heads * head_dim] as read back.
void ThroughDenseCache(const ProjectionSimulation& projection, MatrixF* heads);

}  // namespace palu
