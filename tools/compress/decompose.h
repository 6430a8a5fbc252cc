// Low-rank factors of one group of heads, sorted so that any rank is a prefix.
#pragma once

#include <string>

#include "tools/compress/linalg.h"

namespace palu {

// W ~ up * down, full rank n = min(rows, cols); the factors of rank r are the first r columns of
// up and the first r rows of down. Latents are scaled to a mean variance of one at full rank, so
// that 16 bits hold them whatever the size of the gradients was; component i has variance
// sqrt(loss[i]) / mean(sqrt(loss)).
struct Factors {
  MatrixD up;    // [s * head_dim, n]
  MatrixD down;  // [n, hidden]
  // Squared weighted singular values: cutting component i costs loss[i] in tr(G dW A dW^T).
  VectorD loss;  // [n], descending

  double LossFromRank(int rank) const { return loss.tail(loss.size() - rank).sum(); }
};

// Minimises tr(G dW A dW^T) at every rank: SVD of G^{1/2} W A^{1/2} = P S Q^T, then
// up = G^{-1/2} P sqrt(S) c, down = sqrt(S) Q^T A^{-1/2} / c (any root of A does). The split of S
// is the one that makes the error of latents rotated and coded with one step smallest. With G the
// identity this is the whitened SVD of Palu (arXiv 2407.21118, section 3.1); with G the covariance
// of output gradients it is the K-FAC approximation of the loss (arXiv 1503.05671). w [s *
// head_dim, hidden]; output: roots of G [s * head_dim]^2; input: the Cholesky factor of A,
// [hidden]^2. Throws CompressError.
Factors Decompose(const MatrixD& w, const Roots& output, const MatrixD& input,
                  const std::string& name);

// Orthogonal r x r matrix without small entries: a Hadamard matrix of the largest power of two that
// divides r, times (Kronecker) an orthogonal cosine matrix of the rest, columns' signs drawn from
// seed. Folded into factors it spreads a latent's energy evenly, so that no entry is an outlier of
// the row's common scale. Column 0 is constant: what is stored of the leading component, its mean
// above all, moves a row's zero and takes no codes.
MatrixD SpreadingRotation(int r, uint64_t seed);

}  // namespace palu
