#include "tools/compress/decompose.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace palu {
namespace {

MatrixD RandomMatrix(int rows, int cols, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  return MatrixD::NullaryExpr(rows, cols, [&] { return normal(random); });
}

MatrixD RandomCovariance(int n, int seed) {
  const MatrixD m = RandomMatrix(n, 2 * n, seed);
  const VectorD scale = VectorD::LinSpaced(n, 0.1, 3.0);
  return scale.asDiagonal() * MatrixD(m * m.transpose() / (2.0 * n)) * scale.asDiagonal();
}

double Loss(const MatrixD& error, const MatrixD& g, const MatrixD& a) {
  return (g * error * a * error.transpose()).trace();
}

TEST(Decompose, PrefixLossIsExactlyTheTailOfTheSpectrum) {
  const MatrixD w = RandomMatrix(12, 20, 1), a = RandomCovariance(20, 2),
                g = RandomCovariance(12, 3);
  const Factors f = Decompose(w, PsdRoots(g, 0, "g"), CholeskyFactor(a, 0, "a"), "w");
  for (const int rank : {0, 1, 4, 7, 12}) {
    const MatrixD error = w - f.up.leftCols(rank) * f.down.topRows(rank);
    EXPECT_NEAR(Loss(error, g, a), f.LossFromRank(rank), 1e-9 * f.loss.sum()) << rank;
  }
}

// No other factors of the same rank do better: neither plain nor input-whitened SVD, nor small
// changes of the factors.
TEST(Decompose, BeatsOtherFactorsOfTheSameRank) {
  const MatrixD w = RandomMatrix(12, 20, 4), a = RandomCovariance(20, 5),
                g = RandomCovariance(12, 6);
  const int rank = 5;
  const Roots one_g = PsdRoots(MatrixD::Identity(12, 12), 0, "1");
  const MatrixD one_a = MatrixD::Identity(20, 20);
  const Roots root_g = PsdRoots(g, 0, "g");
  const MatrixD root_a = CholeskyFactor(a, 0, "a");
  const auto loss = [&](const Factors& f) {
    return Loss(w - f.up.leftCols(rank) * f.down.topRows(rank), g, a);
  };
  const Factors best = Decompose(w, root_g, root_a, "w");
  EXPECT_LT(loss(best), loss(Decompose(w, one_g, root_a, "w")));
  EXPECT_LT(loss(best), loss(Decompose(w, root_g, one_a, "w")));
  for (int trial = 0; trial < 20; ++trial) {
    Factors moved = best;
    moved.up += 1e-3 * RandomMatrix(12, 12, 100 + trial);
    EXPECT_LT(loss(best), loss(moved));
  }
}

TEST(Decompose, LatentsHaveTheVarianceOfTheSingularValues) {
  const MatrixD w = RandomMatrix(6, 10, 7), a = RandomCovariance(10, 8);
  const Factors f =
      Decompose(w, PsdRoots(MatrixD::Identity(6, 6), 0, "1"), CholeskyFactor(a, 0, "a"), "w");
  const MatrixD variance = f.down * a * f.down.transpose();
  const VectorD s = f.loss.cwiseSqrt();
  EXPECT_LT((variance - MatrixD((s / s.mean()).asDiagonal())).norm(), 1e-9);
}

TEST(SpreadingRotation, IsOrthogonalAndHasNoLargeEntry) {
  for (const int r : {1, 2, 16, 48, 176, 256}) {
    const MatrixD q = SpreadingRotation(r, 3);
    EXPECT_LT((q * q.transpose() - MatrixD::Identity(r, r)).norm(), 1e-10) << r;
    EXPECT_LE(q.cwiseAbs().maxCoeff(), std::sqrt(2.0 / r) + 1e-12) << r;
  }
}

TEST(SpreadingRotation, LeadingComponentMovesOnlyTheZero) {
  for (const int r : {16, 48, 96, 176}) {
    const VectorD column = SpreadingRotation(r, 3).col(0);
    EXPECT_LT(column.maxCoeff() - column.minCoeff(), 1e-12) << r;
  }
}

// A component without energy must not make factors infinite; the product stays the matrix.
TEST(Decompose, SurvivesAMatrixOfLowRank) {
  const MatrixD w = RandomMatrix(8, 3, 20) * RandomMatrix(3, 12, 21);
  const Factors f = Decompose(w, PsdRoots(RandomCovariance(8, 22), 0, "g"),
                              CholeskyFactor(RandomCovariance(12, 23), 0, "a"), "w");
  EXPECT_TRUE(f.up.allFinite() && f.down.allFinite());
  EXPECT_LT((f.up * f.down - w).norm(), 1e-6 * w.norm());
  EXPECT_LT((f.up.leftCols(3) * f.down.topRows(3) - w).norm(), 1e-6 * w.norm());
}

TEST(CholeskyFactor, MultipliesBackAndSaysWhatIsWrong) {
  const MatrixD m = RandomCovariance(9, 9);
  const MatrixD l = CholeskyFactor(m, 0, "m");
  EXPECT_LT((l * l.transpose() - m).norm(), 1e-10 * m.norm());
  const VectorD thin = VectorD::LinSpaced(4, 0, 1);
  const auto error = [](const MatrixD& bad) -> std::string {
    try {
      CholeskyFactor(bad, 0, "layer 3 input covariance");
    } catch (const CompressError& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(error(thin * thin.transpose()).find("layer 3 input covariance: singular"),
            std::string::npos);
  EXPECT_NE(error(-MatrixD::Identity(4, 4)).find("singular"), std::string::npos);
  MatrixD broken = MatrixD::Identity(4, 4);
  broken(0, 3) = broken(3, 0) = std::numeric_limits<double>::infinity();
  EXPECT_NE(error(broken).find("not finite"), std::string::npos);
}

TEST(PsdRoots, SquareBackToTheMatrix) {
  const MatrixD m = RandomCovariance(9, 9);
  const Roots roots = PsdRoots(m, 0, "m");
  EXPECT_LT((roots.root * roots.root - m).norm(), 1e-10 * m.norm());
  EXPECT_LT((roots.root * roots.inverse_root - MatrixD::Identity(9, 9)).norm(), 1e-9);
}

std::string ErrorOf(const MatrixD& m, double damping) {
  try {
    PsdRoots(m, damping, "layer 3 input covariance");
  } catch (const CompressError& error) {
    return error.what();
  }
  return "";
}

TEST(PsdRoots, SaysWhatIsWrong) {
  MatrixD m = RandomCovariance(4, 1);
  m(1, 2) = std::numeric_limits<double>::quiet_NaN();
  EXPECT_NE(ErrorOf(m, 0).find("layer 3 input covariance: not finite"), std::string::npos);
  EXPECT_NE(ErrorOf(MatrixD::Zero(4, 4), 1e-6).find("singular"), std::string::npos);
  const VectorD thin = VectorD::LinSpaced(4, 0, 1);
  EXPECT_NE(ErrorOf(thin * thin.transpose(), 0).find("singular"), std::string::npos);
  EXPECT_EQ(ErrorOf(thin * thin.transpose(), 1e-3), "");
  EXPECT_NE(ErrorOf(-MatrixD::Identity(4, 4), 0).find("singular"), std::string::npos);
  MatrixD indefinite = MatrixD::Identity(4, 4);
  indefinite(0, 0) = -0.5;
  EXPECT_NE(ErrorOf(indefinite, 0).find("not positive semi-definite"), std::string::npos);
}

}  // namespace
}  // namespace palu
