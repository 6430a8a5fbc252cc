#include "tools/compress/blas.h"

// clang-format off: the second needs the first.
#include <cblas.h>
#include <dlfcn.h>
#include <f77blas.h>
#include <openblas_config.h>
// clang-format on

#include <cstring>
#include <mutex>

#include "kernels/check.h"

namespace palu {
namespace {

// Multiplications below which a product is not worth the way to a device.
constexpr double kDeviceProduct = 1 << 28;

char Flag(bool transposed) { return transposed ? 'T' : 'N'; }

// Whether NVBLAS stands before OpenBLAS (LD_PRELOAD): it replaces the Fortran names.
bool OnDevice() {
  static const bool on_device = [] {
    Dl_info where;
    void* product = dlsym(RTLD_DEFAULT, "sgemm_");
    return product != nullptr && dladdr(product, &where) != 0 && where.dli_fname != nullptr &&
           std::strstr(where.dli_fname, "nvblas") != nullptr;
  }();
  return on_device;
}

// NVBLAS fails when several threads call it at once.
std::mutex device_mutex;

// Row-major a * b is column-major b^T * a^T.
void Gemm(bool ta, bool tb, const Strided& a, const Strided& b, Strided c, float alpha,
          float beta) {
  int m = c.rows, n = c.cols, k = ta ? a.rows : a.cols;
  PALU_CHECK((ta ? a.cols : a.rows) == m);
  PALU_CHECK((tb ? b.rows : b.cols) == n);
  PALU_CHECK((tb ? b.cols : b.rows) == k);
  if (m == 0 || n == 0) return;
  if (!OnDevice() || 1.0 * m * n * k < kDeviceProduct) {
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, m, n,
                k, alpha, a.data, a.stride, b.data, b.stride, beta, c.data, c.stride);
    return;
  }
  const std::lock_guard lock(device_mutex);
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
  const std::lock_guard lock(device_mutex);
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
  const std::lock_guard lock(device_mutex);
  char left = 'L', upper = 'U', plain = 'N';
  double one = 1;
  dtrsm_(&left, &upper, &plain, &plain, &n, &m, &one, const_cast<double*>(lower.data()), &n,
         x.data(), &n);
  return x;
}

int BlasThreads() { return openblas_get_num_threads(); }

void SetBlasThreads(int threads) { openblas_set_num_threads(threads); }

}  // namespace palu
