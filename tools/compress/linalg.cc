#include "tools/compress/linalg.h"

#include <lapacke.h>

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "tools/compress/blas.h"

namespace palu {
namespace {

// An eigenvalue below -this times the largest means that the matrix is no covariance.
constexpr double kIndefinite = 1e-6;
// Eigenvalues below this times the largest cannot be inverted in double precision.
constexpr double kSingular = 1e-14;

void CheckFinite(const MatrixD& m, const std::string& name) {
  if (!m.allFinite()) throw CompressError(name + ": not finite (NaN or infinity)");
}

}  // namespace

EigenPairs SymmetricEigen(const MatrixD& m, const std::string& name) {
  PALU_CHECK(m.rows() == m.cols());
  CheckFinite(m, name);
  const auto n = static_cast<lapack_int>(m.rows());
  EigenPairs result;
  result.vectors = (m + m.transpose()) * 0.5;
  result.values.resize(n);
  const int info =
      LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'U', n, result.vectors.data(), n, result.values.data());
  if (info != 0) throw CompressError(name + ": eigen-decomposition did not converge");
  return result;
}

Roots PsdRoots(const MatrixD& m, double damping, const std::string& name) {
  CheckFinite(m, name);
  const double mean = m.trace() / static_cast<double>(m.rows());
  if (!(mean > 0)) throw CompressError(name + ": singular (all zero)");
  EigenPairs eigen = SymmetricEigen(m, name);
  const double largest = eigen.values.maxCoeff();
  if (eigen.values.minCoeff() < -kIndefinite * largest) {
    throw CompressError(name + ": not positive semi-definite");
  }
  VectorD values = eigen.values.cwiseMax(0.0).array() + damping * mean;
  if (values.minCoeff() <= kSingular * values.maxCoeff()) {
    throw CompressError(name + ": singular; give more calibration text or a larger --damping");
  }
  Roots roots;
  const VectorD root = values.cwiseSqrt();
  const MatrixD transposed = eigen.vectors.transpose();
  roots.root = Multiply(eigen.vectors * root.asDiagonal(), transposed);
  roots.inverse_root = Multiply(eigen.vectors * root.cwiseInverse().asDiagonal(), transposed);
  return roots;
}

Svd ThinSvd(const MatrixD& m, const std::string& name) {
  CheckFinite(m, name);
  const auto rows = static_cast<lapack_int>(m.rows());
  const auto cols = static_cast<lapack_int>(m.cols());
  const lapack_int k = std::min(rows, cols);
  Svd svd{MatrixD(rows, k), VectorD(k), MatrixD(k, cols)};
  MatrixD work = m;
  const int info = LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'S', rows, cols, work.data(), cols,
                                  svd.s.data(), svd.u.data(), k, svd.vt.data(), cols);
  if (info != 0) throw CompressError(name + ": singular value decomposition did not converge");
  return svd;
}

}  // namespace palu
