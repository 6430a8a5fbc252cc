#include <cstring>
#include <tuple>

#include "tests/kernels/reference/float_formats.h"
#include "tests/kernels/reference/ops.h"
#include "tests/kernels/test_backend.h"

namespace palu {
namespace {

constexpr DType kWeightTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

struct Problem {
  int64_t rows, cols, depth;
};

using MatmulTest = KernelTest;

TEST_P(MatmulTest, MatchesReference) {
  Random random(1);
  for (const Problem& p : {Problem{1, 1, 1}, Problem{1, 9, 33}, Problem{2, 384, 384},
                           Problem{3, 65, 64}, Problem{7, 50, 47}, Problem{13, 31, 100},
                           Problem{64, 100, 130}, Problem{130, 70, 517}, Problem{270, 34, 65}}) {
    for (DType dtype : kWeightTypes) {
      SCOPED_TRACE(testing::Message()
                   << p.rows << "x" << p.cols << "x" << p.depth << " " << Name(dtype));
      const std::vector<double> x = AsActivations(*backend_, random.Normal(p.rows * p.depth));
      const std::vector<double> w = reference::Rounded(dtype, random.Normal(p.cols * p.depth));
      const Tensor out = arrays_.NewActivations({p.rows, p.cols});
      backend_->Matmul({.x = arrays_.PutActivations(x, {p.rows, p.depth}),
                        .weight = arrays_.Put(dtype, w, {p.cols, p.depth}),
                        .bias = {},
                        .out = out});
      ExpectClose(arrays_.Get(out), reference::Matmul(x, w, p.rows, p.depth, p.cols),
                  Tolerance(*backend_));
    }
  }
}

TEST_P(MatmulTest, AddsBiasAndAccumulates) {
  Random random(2);
  const int64_t cols = 37, depth = 48;
  for (const int64_t rows : {5, 50}) {
    for (DType dtype : kWeightTypes) {
      SCOPED_TRACE(testing::Message() << rows << " rows, " << Name(dtype));
      const std::vector<double> x = AsActivations(*backend_, random.Normal(rows * depth));
      const std::vector<double> w = reference::Rounded(dtype, random.Normal(cols * depth));
      const std::vector<double> bias = reference::Rounded(dtype, random.Normal(cols));
      const std::vector<double> before = AsActivations(*backend_, random.Normal(rows * cols));
      const Tensor out = arrays_.PutActivations(before, {rows, cols});
      backend_->Matmul({.x = arrays_.PutActivations(x, {rows, depth}),
                        .weight = arrays_.Put(dtype, w, {cols, depth}),
                        .bias = arrays_.Put(dtype, bias, {cols}),
                        .out = out,
                        .accumulate = true});
      std::vector<double> want = reference::Matmul(x, w, rows, depth, cols);
      for (int64_t i = 0; i < rows * cols; ++i) want[i] += bias[i % cols] + before[i];
      ExpectClose(arrays_.Get(out), want, Tolerance(*backend_));
    }
  }
}

// Several products of one input, for row counts on both sides of the limits of special kernels.
TEST_P(MatmulTest, ProductsOfOneInput) {
  Random random(5);
  for (const int64_t depth : {64, 1000, 2056}) {
    for (const int64_t rows : {1, 5, 8, 9, 16, 17}) {
      SCOPED_TRACE(testing::Message() << rows << " rows, depth " << depth);
      const std::vector<double> x = AsActivations(*backend_, random.Normal(rows * depth));
      const Tensor input = arrays_.PutActivations(x, {rows, depth});
      std::vector<MatmulArgs> products;
      std::vector<std::vector<double>> wanted;
      for (const int64_t cols : {40, 3, 130, 16, 17}) {
        const std::vector<double> w = reference::Rounded(DType::kBF16, random.Normal(cols * depth));
        const bool floats = cols == 130;
        products.push_back({.x = input,
                            .weight = arrays_.Put(DType::kBF16, w, {cols, depth}),
                            .bias = {},
                            .out = floats ? arrays_.NewFloats({rows, cols})
                                          : arrays_.NewActivations({rows, cols})});
        wanted.push_back(reference::Matmul(x, w, rows, depth, cols));
      }
      backend_->Matmuls(products);
      for (size_t i = 0; i < products.size(); ++i) {
        ExpectClose(arrays_.Get(products[i].out), wanted[i], Tolerance(*backend_));
      }
    }
  }
}

// Operands are views into wider arrays; what lies between their rows stays as it was.
TEST_P(MatmulTest, HonoursStrides) {
  Random random(3);
  const int64_t cols = 21, depth = 40, wide = 64;
  const std::vector<double> w = reference::Rounded(DType::kBF16, random.Normal(cols * wide));
  for (const int64_t rows : {9, 40}) {
    const std::vector<double> x = AsActivations(*backend_, random.Normal(rows * wide));
    const Tensor out = arrays_.NewActivations({rows, wide});
    backend_->Matmul({.x = arrays_.PutActivations(x, {rows, wide}).Columns(8, depth),
                      .weight = arrays_.Put(DType::kBF16, w, {cols, wide}).Columns(16, depth),
                      .bias = {},
                      .out = out.Columns(24, cols)});
    const std::vector<double> got = arrays_.Get(out);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < wide; ++c) {
        if (c < 24 || c >= 24 + cols) {
          ASSERT_TRUE(std::isnan(got[r * wide + c]));
          continue;
        }
        double want = 0;
        for (int64_t k = 0; k < depth; ++k) {
          want += x[r * wide + 8 + k] * w[(c - 24) * wide + 16 + k];
        }
        ASSERT_NEAR(got[r * wide + c], want, Tolerance(*backend_) * (1 + std::fabs(want)) * 10);
      }
    }
  }
}

// Bit for bit, whatever the number of rows, its place among them and the number of threads.
TEST_P(MatmulTest, RowsAreIndependent) {
  if (backend_->activation_dtype() == DType::kBF16) {
    GTEST_SKIP() << "cuBLASLt chooses its order of summation by shape";
  }
  Random random(4);
  const int64_t rows = 260, cols = 83;
  for (const int64_t depth : {1, 15, 64, 387, 1024}) {
    for (DType dtype : kWeightTypes) {
      SCOPED_TRACE(testing::Message() << depth << " " << Name(dtype));
      const Tensor x = arrays_.PutActivations(random.Normal(rows * depth), {rows, depth});
      const Tensor w = arrays_.Put(dtype, random.Normal(cols * depth), {cols, depth});
      const Tensor whole = arrays_.NewActivations({rows, cols});
      backend_->Matmul({.x = x, .weight = w, .bias = {}, .out = whole});
      const std::vector<uint8_t> want = arrays_.GetBytes(whole);
      for (const int64_t chunk : {1, 2, 3, 4, 5, 6, 7, 8, 13, 25, 96, 245}) {
        const Tensor part = arrays_.NewActivations({rows, cols});
        for (int64_t r = 0; r < rows; r += chunk) {
          const int64_t count = std::min(chunk, rows - r);
          backend_->Matmul(
              {.x = x.Rows(r, count), .weight = w, .bias = {}, .out = part.Rows(r, count)});
        }
        ASSERT_EQ(arrays_.GetBytes(part), want) << "chunks of " << chunk;
      }
      for (const int threads : {1, 5}) {
        const std::unique_ptr<Backend> other = WithThreads(threads);
        const Tensor again = arrays_.NewActivations({rows, cols});
        backend_->Synchronize();  // the other backend has a stream of its own
        other->Matmul({.x = x, .weight = w, .bias = {}, .out = again});
        other->Synchronize();
        ASSERT_EQ(arrays_.GetBytes(again), want) << threads << " threads";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, MatmulTest, testing::ValuesIn(AvailableBackends()), CaseName);

}  // namespace
}  // namespace palu
