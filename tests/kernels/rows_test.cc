// Ops that treat every row alone: embedding, norm, add, rotation, Hadamard, gather, activation,
// MoE.
#include <algorithm>
#include <cmath>

#include "tests/kernels/reference/float_formats.h"
#include "tests/kernels/reference/ops.h"
#include "tests/kernels/test_backend.h"

namespace palu {
namespace {

constexpr DType kWeightTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

using RowsTest = KernelTest;

TEST_P(RowsTest, Embedding) {
  Random random(1);
  const int64_t vocabulary = 50, width = 77;
  const std::vector<int32_t> ids = {49, 0, 7, 7, 23};
  for (DType dtype : kWeightTypes) {
    const std::vector<double> table = reference::Rounded(dtype, random.Normal(vocabulary * width));
    const Tensor out = arrays_.NewActivations({5, width});
    backend_->Embedding({.ids = arrays_.PutInts(ids, {5}),
                         .table = arrays_.Put(dtype, table, {vocabulary, width}),
                         .out = out,
                         .scale = 2.5f});
    std::vector<double> want;
    for (int32_t id : ids) {
      for (int64_t i = 0; i < width; ++i) want.push_back(2.5 * table[id * width + i]);
    }
    ExpectClose(arrays_.Get(out), want, Tolerance(*backend_));
  }
}

TEST_P(RowsTest, RmsNormOfRows) {
  Random random(2);
  for (const int64_t width : {1, 5, 64, 383}) {
    for (DType dtype : kWeightTypes) {
      const std::vector<double> x = AsActivations(*backend_, random.Normal(6 * width, 30.0));
      const std::vector<double> weight = reference::Rounded(dtype, random.Normal(width));
      const Tensor out = arrays_.NewActivations({6, width});
      backend_->RmsNorm({.x = arrays_.PutActivations(x, {6, width}),
                         .weight = arrays_.Put(dtype, weight, {width}),
                         .out = out,
                         .eps = 1e-3f,
                         .weight_offset = 1.0f});
      ExpectClose(arrays_.Get(out), reference::RmsNorm(x, weight, 1e-3f, 1.0),
                  Tolerance(*backend_));
    }
  }
}

// Heads of q inside a wider row that also holds k and v, in place.
TEST_P(RowsTest, RmsNormOfHeadsInPlace) {
  Random random(3);
  const int64_t tokens = 4, heads = 3, dim = 24, wide = 120;
  const std::vector<double> x = AsActivations(*backend_, random.Normal(tokens * wide));
  const std::vector<double> weight = reference::Rounded(DType::kBF16, random.Normal(dim));
  const Tensor all = arrays_.PutActivations(x, {tokens, wide});
  const Tensor view = all.Columns(8, heads * dim).SplitLast(heads, dim);
  backend_->RmsNorm(
      {.x = view, .weight = arrays_.Put(DType::kBF16, weight, {dim}), .out = view, .eps = 1e-6f});
  std::vector<double> want = x;
  for (int64_t t = 0; t < tokens; ++t) {
    const auto begin = x.begin() + t * wide + 8;
    const std::vector<double> normed =
        reference::RmsNorm({begin, begin + heads * dim}, weight, 1e-6f, 0.0);
    std::copy(normed.begin(), normed.end(), want.begin() + t * wide + 8);
  }
  ExpectClose(arrays_.Get(all), want, Tolerance(*backend_));
}

TEST_P(RowsTest, Add) {
  Random random(4);
  const int64_t rows = 300, width = 65;
  const std::vector<double> x = AsActivations(*backend_, random.Normal(rows * width));
  const std::vector<double> y = AsActivations(*backend_, random.Normal(rows * width));
  const Tensor sum = arrays_.PutActivations(x, {rows, width});
  backend_->Add({.x = sum, .y = arrays_.PutActivations(y, {rows, width})});
  std::vector<double> want = x;
  for (size_t i = 0; i < want.size(); ++i) want[i] += y[i];
  ExpectClose(arrays_.Get(sum), want, Tolerance(*backend_));
}

TEST_P(RowsTest, RopeTurnsTheFirstDims) {
  Random random(5);
  const std::vector<int32_t> positions = {0, 999, 3, 64, 1};
  for (const int64_t rotary : {8, 40, 64}) {
    const int64_t heads = 3, dim = 64, tokens = 5;
    const std::vector<double> table = reference::RopeTable(1000, rotary, 1e4);
    const std::vector<double> x = AsActivations(*backend_, random.Normal(tokens * heads * dim));
    const Tensor turned = arrays_.PutActivations(x, {tokens, heads, dim});
    backend_->Rope({.x = turned,
                    .positions = arrays_.PutInts(positions, {tokens}),
                    .cos_sin = arrays_.Put(DType::kF32, table, {1000, rotary})});
    std::vector<double> want = x;
    for (int64_t head = 0; head < tokens * heads; ++head) {
      reference::Rope(&want[head * dim], &table[positions[head / heads] * rotary], rotary);
    }
    ExpectClose(arrays_.Get(turned), want, Tolerance(*backend_));
  }
}

TEST_P(RowsTest, HadamardMatchesItsDefinitionAndUndoesItself) {
  Random random(6);
  for (const int64_t dim : {1, 8, 24, 80, 96, 128}) {
    const std::vector<double> x = AsActivations(*backend_, random.Normal(2 * 3 * dim));
    const Tensor rotated = arrays_.PutActivations(x, {2, 3, dim});
    backend_->Hadamard({.x = rotated});
    ExpectClose(arrays_.Get(rotated), reference::Hadamard(x, dim), Tolerance(*backend_));
    backend_->Hadamard({.x = rotated});
    ExpectClose(arrays_.Get(rotated), x, 2 * Tolerance(*backend_));
  }
}

TEST_P(RowsTest, GatherRows) {
  Random random(7);
  const std::vector<double> x = AsActivations(*backend_, random.Normal(8 * 33));
  const std::vector<int32_t> rows = {7, 0, 7, 2};
  const Tensor out = arrays_.NewActivations({4, 33});
  backend_->GatherRows(
      {.x = arrays_.PutActivations(x, {8, 33}), .rows = arrays_.PutInts(rows, {4}), .out = out});
  std::vector<double> want;
  for (int32_t row : rows) want.insert(want.end(), x.begin() + row * 33, x.begin() + row * 33 + 33);
  EXPECT_EQ(arrays_.Get(out), want);
}

TEST_P(RowsTest, GatedActivation) {
  Random random(8);
  for (Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    const int64_t rows = 5, width = 131;
    std::vector<double> gate = random.Normal(rows * width, 5.0);
    gate[0] = 0.0, gate[1] = 120.0, gate[2] = -120.0, gate[3] = 1e-4;
    gate = AsActivations(*backend_, gate);
    const std::vector<double> up = AsActivations(*backend_, random.Normal(rows * width));
    const Tensor out = arrays_.NewActivations({rows, width});
    backend_->GatedActivation({.gate = arrays_.PutActivations(gate, {rows, width}),
                               .up = arrays_.PutActivations(up, {rows, width}),
                               .out = out,
                               .activation = activation});
    std::vector<double> want(gate.size());
    for (size_t i = 0; i < want.size(); ++i) {
      want[i] = reference::Activate(activation, gate[i]) * up[i];
    }
    ExpectClose(arrays_.Get(out), want, Tolerance(*backend_));
  }
}

class MoeTest : public KernelTest {
 protected:
  static constexpr int64_t kTokens = 11, kWidth = 36, kHidden = 28;
  static constexpr size_t kExperts = 6;

  MoeTest() : random_(9) {
    for (size_t e = 0; e < kExperts; ++e) {
      experts_.push_back({Matrix(kHidden, kWidth, &gate_), Matrix(kHidden, kWidth, &up_),
                          Matrix(kWidth, kHidden, &down_)});
    }
    x_ = AsActivations(*backend_, random_.Normal(kTokens * kWidth));
    const std::vector<double> logits = random_.Normal(kTokens * kExperts);
    logits_.assign(logits.begin(), logits.end());
    for (double& logit : logits_) logit = static_cast<float>(logit);
    // A tie: of experts 2 and 4 the lower index wins.
    std::fill(logits_.begin(), logits_.begin() + kExperts, -1.0);
    logits_[2] = logits_[4] = 1.0;
  }

  std::vector<double> Matrix(int64_t rows, int64_t cols, std::vector<Tensor>* tensors) {
    const std::vector<double> values =
        reference::Rounded(DType::kBF16, random_.Normal(rows * cols, 0.3));
    tensors->push_back(arrays_.Put(DType::kBF16, values, {rows, cols}));
    return values;
  }

  Tensor Run(int64_t first, int64_t count, int top_k, bool normalize) {
    const Tensor out = arrays_.NewActivations({count, kWidth});
    backend_->Moe(
        {.x = arrays_.PutActivations(x_, {kTokens, kWidth}).Rows(first, count),
         .router_logits = arrays_.Put(DType::kF32, logits_, {kTokens, kExperts}).Rows(first, count),
         .weights = {.gate = gate_, .up = up_, .down = down_},
         .out = out,
         .top_k = top_k,
         .normalize = normalize,
         .activation = Activation::kSilu});
    return out;
  }

  Random random_;
  std::vector<reference::Expert> experts_;
  std::vector<Tensor> gate_, up_, down_;
  std::vector<double> x_, logits_;
};

TEST_P(MoeTest, MatchesReference) {
  for (const int top_k : {1, 2, static_cast<int>(kExperts)}) {
    for (const bool normalize : {false, true}) {
      std::vector<double> want;
      for (int64_t t = 0; t < kTokens; ++t) {
        const auto x = x_.begin() + t * kWidth;
        const auto logits = logits_.begin() + t * kExperts;
        const std::vector<double> row =
            reference::Moe({x, x + kWidth}, {logits, logits + kExperts}, experts_, top_k, normalize,
                           Activation::kSilu);
        want.insert(want.end(), row.begin(), row.end());
      }
      ExpectClose(arrays_.Get(Run(0, kTokens, top_k, normalize)), want, 2 * Tolerance(*backend_));
    }
  }
}

TEST_P(MoeTest, TokensAreIndependent) {
  const std::vector<uint8_t> whole = arrays_.GetBytes(Run(0, kTokens, 2, true));
  std::vector<uint8_t> single;
  for (int64_t t = 0; t < kTokens; ++t) {
    const std::vector<uint8_t> row = arrays_.GetBytes(Run(t, 1, 2, true));
    single.insert(single.end(), row.begin(), row.end());
  }
  EXPECT_EQ(single, whole);
}

INSTANTIATE_TEST_SUITE_P(Backends, RowsTest, testing::ValuesIn(AvailableBackends()), CaseName);
INSTANTIATE_TEST_SUITE_P(Backends, MoeTest, testing::ValuesIn(AvailableBackends()), CaseName);

}  // namespace
}  // namespace palu
