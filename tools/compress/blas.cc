#include "tools/compress/blas.h"

// clang-format off: the second needs the first.
#include <cblas.h>
#include <f77blas.h>
#include <openblas_config.h>
// clang-format on

#include "kernels/check.h"

namespace palu {
namespace {

char Flag(bool transposed) { return transposed ? 'T' : 'N'; }

// Row-major a * b is column-major b^T * a^T. The Fortran names are called, not the C ones, because
// they are what a drop-in library such as NVBLAS replaces.
void Gemm(bool ta, bool tb, const Strided& a, const Strided& b, Strided c, float alpha,
          float beta) {
  int m = c.rows, n = c.cols, k = ta ? a.rows : a.cols;
  PALU_CHECK((ta ? a.cols : a.rows) == m);
  PALU_CHECK((tb ? b.rows : b.cols) == n);
  PALU_CHECK((tb ? b.cols : b.rows) == k);
  if (m == 0 || n == 0) return;
  char flag_a = Flag(ta), flag_b = Flag(tb);
  int stride_a = a.stride, stride_b = b.stride, stride_c = c.stride;
  sgemm_(&flag_b, &flag_a, &n, &m, &k, &alpha, b.data, &stride_b, a.data, &stride_a, &beta, c.data,
         &stride_c);
}

}  // namespace

void GemmNT(const Strided& a, const Strided& b, Strided c, float alpha, float beta) {
  Gemm(false, true, a, b, c, alpha, beta);
}

void GemmNN(const Strided& a, const Strided& b, Strided c, float alpha, float beta) {
  Gemm(false, false, a, b, c, alpha, beta);
}

void GemmTN(const Strided& a, const Strided& b, Strided c, float alpha, float beta) {
  Gemm(true, false, a, b, c, alpha, beta);
}

MatrixD Multiply(const MatrixD& a, const MatrixD& b) {
  PALU_CHECK(a.cols() == b.rows());
  MatrixD c(a.rows(), b.cols());
  int m = static_cast<int>(a.rows()), n = static_cast<int>(b.cols()),
      k = static_cast<int>(a.cols());
  if (m == 0 || n == 0) return c;
  char plain = 'N';
  double one = 1, zero = 0;
  dgemm_(&plain, &plain, &n, &m, &k, &one, const_cast<double*>(b.data()), &n,
         const_cast<double*>(a.data()), &k, &zero, c.data(), &n);
  return c;
}

MatrixD SolveLower(const MatrixD& b, const MatrixD& lower) {
  PALU_CHECK(lower.rows() == lower.cols() && b.cols() == lower.rows());
  MatrixD x = b;
  int m = static_cast<int>(b.rows()), n = static_cast<int>(b.cols());
  if (m == 0 || n == 0) return x;
  // Row-major lower is column-major upper: x * lower = b is lower^T * x^T = b^T.
  char left = 'L', upper = 'U', plain = 'N';
  double one = 1;
  dtrsm_(&left, &upper, &plain, &plain, &n, &m, &one, const_cast<double*>(lower.data()), &n,
         x.data(), &n);
  return x;
}

int BlasThreads() { return openblas_get_num_threads(); }

void SetBlasThreads(int threads) { openblas_set_num_threads(threads); }

}  // namespace palu
