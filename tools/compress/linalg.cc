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

MatrixD CholeskyFactor(const MatrixD& m, double damping, const std::string& name) {
  PALU_CHECK(m.rows() == m.cols());
  CheckFinite(m, name);
  const auto n = static_cast<lapack_int>(m.rows());
  const double mean = m.trace() / static_cast<double>(n);
  if (!(mean > 0)) throw CompressError(name + ": singular (all zero)");
  MatrixD lower = (m + m.transpose()) * 0.5;
  lower.diagonal().array() += damping * mean;
  // Column-major upper is row-major lower.
  const int info = LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'U', n, lower.data(), n);
  const VectorD pivots = lower.diagonal().array().square();
  if (info != 0 || pivots.minCoeff() <= kSingular * pivots.maxCoeff()) {
    throw CompressError(name + ": singular; give more calibration text or a larger --damping");
  }
  lower.triangularView<Eigen::StrictlyUpper>().setZero();
  return lower;
}

LeftSvd LeftSingularVectors(const MatrixD& m, const std::string& name) {
  CheckFinite(m, name);
  const EigenPairs eigen = SymmetricEigen(Multiply(m, m.transpose()), name);
  LeftSvd svd;
  svd.p = eigen.vectors.rowwise().reverse();
  svd.sq = Multiply(svd.p.transpose(), m);
  svd.s = svd.sq.rowwise().norm();
  // Rounding may swap neighbours at the end of the spectrum.
  for (Eigen::Index i = 1; i < svd.s.size(); ++i) svd.s[i] = std::min(svd.s[i], svd.s[i - 1]);
  return svd;
}

}  // namespace palu
