#include "tools/compress/blas.h"

#include <cblas.h>

#include "kernels/check.h"

namespace palu {
namespace {

void Gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, const Strided& a, const Strided& b, Strided c,
          float alpha, float beta) {
  const int k = ta == CblasNoTrans ? a.cols : a.rows;
  PALU_CHECK((ta == CblasNoTrans ? a.rows : a.cols) == c.rows);
  PALU_CHECK((tb == CblasNoTrans ? b.cols : b.rows) == c.cols);
  PALU_CHECK((tb == CblasNoTrans ? b.rows : b.cols) == k);
  if (c.rows == 0 || c.cols == 0) return;
  cblas_sgemm(CblasRowMajor, ta, tb, c.rows, c.cols, k, alpha, a.data, a.stride, b.data, b.stride,
              beta, c.data, c.stride);
}

}  // namespace

void GemmNT(const Strided& a, const Strided& b, Strided c, float alpha, float beta) {
  Gemm(CblasNoTrans, CblasTrans, a, b, c, alpha, beta);
}

void GemmNN(const Strided& a, const Strided& b, Strided c, float alpha, float beta) {
  Gemm(CblasNoTrans, CblasNoTrans, a, b, c, alpha, beta);
}

void GemmTN(const Strided& a, const Strided& b, Strided c, float alpha, float beta) {
  Gemm(CblasTrans, CblasNoTrans, a, b, c, alpha, beta);
}

MatrixD Multiply(const MatrixD& a, const MatrixD& b) {
  PALU_CHECK(a.cols() == b.rows());
  MatrixD c(a.rows(), b.cols());
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(a.rows()),
              static_cast<int>(b.cols()), static_cast<int>(a.cols()), 1.0, a.data(),
              static_cast<int>(a.cols()), b.data(), static_cast<int>(b.cols()), 0.0, c.data(),
              static_cast<int>(b.cols()));
  return c;
}

void SetBlasThreads(int threads) { openblas_set_num_threads(threads); }

}  // namespace palu
