// The few BLAS calls that the tools need, on row-major matrices.
#pragma once

#include "tools/compress/matrix.h"

namespace palu {

// A view of row-major floats with a row stride, so that heads inside a row can be addressed.
struct Strided {
  float* data = nullptr;
  int rows = 0, cols = 0, stride = 0;

  Strided(float* d, int r, int c, int s) : data(d), rows(r), cols(c), stride(s) {}
  Strided(MatrixF& m)  // NOLINT: views convert implicitly
      : Strided(m.data(), static_cast<int>(m.rows()), static_cast<int>(m.cols()),
                static_cast<int>(m.cols())) {}
  Strided(const MatrixF& m) : Strided(const_cast<MatrixF&>(m)) {}  // NOLINT: inputs only
};

// c = alpha * a * b^T + beta * c; a [m, k], b [n, k], c [m, n].
void GemmNT(const Strided& a, const Strided& b, Strided c, float alpha = 1, float beta = 0);
// c = alpha * a * b + beta * c; a [m, k], b [k, n].
void GemmNN(const Strided& a, const Strided& b, Strided c, float alpha = 1, float beta = 0);
// c = alpha * a^T * b + beta * c; a [k, m], b [k, n].
void GemmTN(const Strided& a, const Strided& b, Strided c, float alpha = 1, float beta = 0);

// a * b in double precision.
MatrixD Multiply(const MatrixD& a, const MatrixD& b);

// x with x * lower = b; lower [n, n] is lower triangular, b [m, n].
MatrixD SolveLower(const MatrixD& b, const MatrixD& lower);

// Threads of the BLAS library; process-wide.
int BlasThreads();
void SetBlasThreads(int threads);

}  // namespace palu
