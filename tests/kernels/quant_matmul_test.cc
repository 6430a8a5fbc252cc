// Matmul with weights that PackWeight rounded, and the rounding itself.
#include <cmath>
#include <cstring>

#include "tests/kernels/reference/ops.h"
#include "tests/kernels/test_backend.h"

namespace palu {
namespace {

struct Problem {
  int64_t rows, cols, depth;
};

using PackedWeightTest = KernelTest;

constexpr WeightFormat kFormats[] = {WeightFormat::kInt8, WeightFormat::kInt4};

class Packed {
 public:
  Packed(Backend* backend, const Tensor& weight, WeightFormat format)
      : buffer_(backend->PackWeight(weight, format)),
        tensor_(buffer_.data(),
                format == WeightFormat::kInt4 ? DType::kInt4Groups : DType::kInt8Groups,
                {weight.dim(0), weight.dim(1)}) {}
  bool defined() const { return buffer_.defined(); }
  const Tensor& tensor() const { return tensor_; }

 private:
  Buffer buffer_;
  Tensor tensor_;
};

// Numbers that groups of codes hold exactly: in each group one is at the end of the range.
std::vector<double> Exact(Random* random, int64_t count, int low, int high, int end) {
  std::vector<double> values(static_cast<size_t>(count));
  for (int64_t group = 0; group < count; group += kWeightGroup) {
    const double scale = std::ldexp(1.0, random->Integer(-10, -4));
    for (int i = 0; i < kWeightGroup; ++i) values[group + i] = random->Integer(low, high) * scale;
    values[group + random->Integer(0, kWeightGroup - 1)] = end * scale;
  }
  return values;
}

double RelativeError(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(error / size);
}

TEST_P(PackedWeightTest, ExactNumbersGiveExactProducts) {
  if (!backend_->HasWeightFormat(WeightFormat::kInt8)) GTEST_SKIP() << "no kernels";
  Random random(11);
  for (const WeightFormat format : kFormats) {
    const bool int4 = format == WeightFormat::kInt4;
    for (const Problem& p : {Problem{1, 1, 32}, Problem{1, 130, 96}, Problem{2, 64, 64},
                             Problem{3, 47, 32}, Problem{9, 300, 160}, Problem{33, 17, 1024}}) {
      SCOPED_TRACE(testing::Message()
                   << Name(format) << " " << p.rows << "x" << p.cols << "x" << p.depth);
      const std::vector<double> x = Exact(&random, p.rows * p.depth, -127, 127, -127);
      const std::vector<double> w =
          Exact(&random, p.cols * p.depth, int4 ? -7 : -127, int4 ? 7 : 127, int4 ? -8 : 127);
      std::vector<double> want = reference::Matmul(x, w, p.rows, p.depth, p.cols);
      const std::vector<double> bias = random.Normal(p.cols), before = random.Normal(want.size());
      for (size_t i = 0; i < want.size(); ++i) want[i] += bias[i % p.cols] + before[i];
      const Tensor out = arrays_.PutActivations(before, {p.rows, p.cols});
      const Packed packed(backend_.get(), arrays_.Put(DType::kF32, w, {p.cols, p.depth}), format);
      ASSERT_TRUE(packed.defined());
      backend_->Matmul({.x = arrays_.PutActivations(x, {p.rows, p.depth}),
                        .weight = packed.tensor(),
                        .bias = arrays_.Put(DType::kF32, bias, {p.cols}),
                        .out = out,
                        .accumulate = true});
      ExpectClose(arrays_.Get(out), want, 2e-5);
    }
  }
}

TEST_P(PackedWeightTest, RoundingErrorOfNormalNumbers) {
  if (!backend_->HasWeightFormat(WeightFormat::kInt8)) GTEST_SKIP() << "no kernels";
  Random random(12);
  const int64_t rows = 16, cols = 256, depth = 512;
  const std::vector<double> x = random.Normal(rows * depth), w = random.Normal(cols * depth);
  const std::vector<double> want = reference::Matmul(x, w, rows, depth, cols);
  const Tensor weight = arrays_.Put(DType::kF32, w, {cols, depth});
  for (const WeightFormat format : kFormats) {
    const Tensor out = arrays_.NewActivations({rows, cols});
    const Packed packed(backend_.get(), weight, format);
    backend_->Matmul({.x = arrays_.PutActivations(x, {rows, depth}),
                      .weight = packed.tensor(),
                      .bias = {},
                      .out = out});
    // int4 without the search of the scale has 0.085.
    EXPECT_LT(RelativeError(arrays_.Get(out), want), format == WeightFormat::kInt8 ? 0.012 : 0.083);
  }
}

TEST_P(PackedWeightTest, RowsDoNotDependOnTheirCompany) {
  if (!backend_->HasWeightFormat(WeightFormat::kInt8)) GTEST_SKIP() << "no kernels";
  Random random(13);
  const int64_t rows = 23, cols = 208, depth = 352;
  const Tensor x = arrays_.PutActivations(random.Normal(rows * depth), {rows, depth});
  const Tensor weight = arrays_.Put(DType::kF32, random.Normal(cols * depth), {cols, depth});
  for (const WeightFormat format : kFormats) {
    const Packed packed(backend_.get(), weight, format);
    const Tensor whole = arrays_.NewActivations({rows, cols});
    backend_->Matmul({.x = x, .weight = packed.tensor(), .bias = {}, .out = whole});
    for (const int64_t part : {1, 2, 5, 8}) {
      const Tensor cut = arrays_.NewActivations({rows, cols});
      for (int64_t r = 0; r < rows; r += part) {
        const int64_t count = std::min(part, rows - r);
        backend_->Matmul({.x = x.Rows(r, count),
                          .weight = packed.tensor(),
                          .bias = {},
                          .out = cut.Rows(r, count)});
      }
      EXPECT_EQ(arrays_.GetBytes(cut), arrays_.GetBytes(whole)) << Name(format) << " by " << part;
    }
  }
}

TEST_P(PackedWeightTest, OddDepthsStayAsTheyAre) {
  const Tensor weight = arrays_.Put(DType::kF32, std::vector<double>(4 * 40, 1.0), {4, 40});
  EXPECT_FALSE(backend_->PackWeight(weight, WeightFormat::kInt8).defined());
}

INSTANTIATE_TEST_SUITE_P(Backends, PackedWeightTest, testing::ValuesIn(AvailableBackends()),
                         CaseName);

}  // namespace
}  // namespace palu
