#include "tools/compress/decompose.h"

#include <cmath>
#include <numbers>
#include <random>

#include "kernels/check.h"
#include "tools/compress/blas.h"

namespace palu {
namespace {

// Smallest singular value, of their mean, that factors are scaled by.
constexpr double kNoEnergy = 1e-12;

double HadamardSign(int row, int column) {
  return (__builtin_popcount(static_cast<unsigned>(row & column)) & 1) ? -1.0 : 1.0;
}

// Orthonormal DCT-II, transposed: column 0 is constant.
double Cosine(int n, int row, int column) {
  const double scale = column == 0 ? std::sqrt(1.0 / n) : std::sqrt(2.0 / n);
  return scale * std::cos(std::numbers::pi / n * (row + 0.5) * column);
}

}  // namespace

Factors Decompose(const MatrixD& w, const Roots& output, const MatrixD& input,
                  const std::string& name) {
  PALU_CHECK(output.root.rows() == w.rows() && input.rows() == w.cols());
  const LeftSvd svd = LeftSingularVectors(Multiply(Multiply(output.root, w), input), name);
  const double mean = svd.s.mean();
  if (!(mean > 0)) throw CompressError(name + ": zero");
  // A component of no energy keeps finite factors.
  const VectorD root = svd.s.cwiseMax(kNoEnergy * mean).cwiseSqrt();
  Factors factors;
  factors.up = Multiply(output.inverse_root, svd.p * (root * std::sqrt(mean)).asDiagonal());
  factors.down = SolveLower((root * std::sqrt(mean)).cwiseInverse().asDiagonal() * svd.sq, input);
  factors.loss = svd.s.array().square();
  return factors;
}

MatrixD SpreadingRotation(int r, uint64_t seed) {
  PALU_CHECK(r > 0);
  const int power = r & -r;
  const int rest = r / power;
  std::mt19937_64 random(seed);
  VectorD signs(r);
  for (int i = 0; i < r; ++i) signs[i] = (random() & 1) ? 1.0 : -1.0;
  MatrixD q(r, r);
  const double scale = 1.0 / std::sqrt(static_cast<double>(power));
  for (int i = 0; i < r; ++i) {
    for (int j = 0; j < r; ++j) {
      q(i, j) = signs[j] * scale * HadamardSign(i % power, j % power) *
                Cosine(rest, i / power, j / power);
    }
  }
  return q;
}

}  // namespace palu
