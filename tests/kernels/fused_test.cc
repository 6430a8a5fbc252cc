// Ops that stand for a sequence of others, for row counts on both sides of the limits of special
// kernels.
#include <algorithm>

#include "tests/kernels/latent_fixture.h"
#include "tests/kernels/reference/float_formats.h"
#include "tests/kernels/reference/ops.h"

namespace palu {
namespace {

constexpr double kEps = 1e-3f;

class FusedTest : public KernelTest {
 protected:
  // A matrix or vector of weights, with the numbers that the backend sees.
  struct Weight {
    std::vector<double> values;
    Tensor tensor;
  };

  Weight NewWeight(DType dtype, std::initializer_list<int64_t> shape) {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    Weight weight{reference::Rounded(dtype, random_.Normal(static_cast<size_t>(count))), {}};
    weight.tensor = arrays_.Put(dtype, weight.values, shape);
    return weight;
  }

  Random random_{1};
};

struct Problem {
  int64_t rows, depth;
  DType norm_type;
  double offset;
};

constexpr Problem kProblems[] = {{1, 64, DType::kBF16, 0},   {1, 4096, DType::kBF16, 0},
                                 {5, 1000, DType::kBF16, 1}, {8, 2056, DType::kBF16, 0},
                                 {9, 1000, DType::kF32, 0},  {16, 520, DType::kBF16, 0},
                                 {17, 520, DType::kBF16, 1}, {3, 100, DType::kF16, 0}};

TEST_P(FusedTest, ProductsOfANorm) {
  for (const Problem& p : kProblems) {
    SCOPED_TRACE(testing::Message() << p.rows << " rows, depth " << p.depth);
    const std::vector<double> x = AsActivations(*backend_, random_.Normal(p.rows * p.depth, 3.0));
    const Weight norm = NewWeight(p.norm_type, {p.depth});
    const Tensor normed = arrays_.NewActivations({p.rows, p.depth});
    const Weight bias = NewWeight(DType::kBF16, {40});
    std::vector<Weight> weights;
    std::vector<MatmulArgs> products;
    for (const int64_t cols : {40, 3, 130}) {
      weights.push_back(NewWeight(DType::kBF16, {cols, p.depth}));
      products.push_back({.x = normed,
                          .weight = weights.back().tensor,
                          .bias = cols == 40 ? bias.tensor : Tensor(),
                          .out = cols == 130 ? arrays_.NewFloats({p.rows, cols})
                                             : arrays_.NewActivations({p.rows, cols})});
    }
    backend_->NormMatmuls({.x = arrays_.PutActivations(x, {p.rows, p.depth}),
                           .weight = norm.tensor,
                           .out = normed,
                           .eps = static_cast<float>(kEps),
                           .weight_offset = static_cast<float>(p.offset)},
                          products);
    const std::vector<double> y = reference::RmsNorm(x, norm.values, kEps, p.offset);
    for (size_t i = 0; i < products.size(); ++i) {
      const int64_t cols = weights[i].tensor.dim(0);
      std::vector<double> want = reference::Matmul(y, weights[i].values, p.rows, p.depth, cols);
      for (int64_t j = 0; i == 0 && j < p.rows * cols; ++j) want[j] += bias.values[j % cols];
      ExpectClose(arrays_.Get(products[i].out), want, Tolerance(*backend_));
    }
  }
}

TEST_P(FusedTest, GatedProductOfANorm) {
  for (const Problem& p : kProblems) {
    for (const int64_t cols : {24, 131}) {
      const auto activation = cols == 24 ? Activation::kSilu : Activation::kGeluTanh;
      SCOPED_TRACE(testing::Message() << p.rows << " x " << cols << ", depth " << p.depth);
      const std::vector<double> x = AsActivations(*backend_, random_.Normal(p.rows * p.depth, 3.0));
      const Weight norm = NewWeight(p.norm_type, {p.depth});
      const Weight gate = NewWeight(DType::kBF16, {cols, p.depth});
      const Weight up = NewWeight(DType::kBF16, {cols, p.depth});
      const Weight gate_bias = NewWeight(DType::kBF16, {cols});
      const Weight up_bias = NewWeight(DType::kF32, {cols});
      const Tensor normed = arrays_.NewActivations({p.rows, p.depth});
      const Tensor out = arrays_.NewActivations({p.rows, cols});
      backend_->NormGatedMatmul(
          {.x = arrays_.PutActivations(x, {p.rows, p.depth}),
           .weight = norm.tensor,
           .out = normed,
           .eps = static_cast<float>(kEps),
           .weight_offset = static_cast<float>(p.offset)},
          {.gate = {.x = normed, .weight = gate.tensor, .bias = gate_bias.tensor, .out = out},
           .up = {.x = normed,
                  .weight = up.tensor,
                  .bias = up_bias.tensor,
                  .out = arrays_.NewActivations({p.rows, cols})},
           .activation = activation});
      const std::vector<double> y = reference::RmsNorm(x, norm.values, kEps, p.offset);
      std::vector<double> want = reference::Matmul(y, gate.values, p.rows, p.depth, cols);
      const std::vector<double> ups = reference::Matmul(y, up.values, p.rows, p.depth, cols);
      for (int64_t i = 0; i < p.rows * cols; ++i) {
        want[i] = reference::Activate(activation, want[i] + gate_bias.values[i % cols]) *
                  (ups[i] + up_bias.values[i % cols]);
      }
      ExpectClose(arrays_.Get(out), want, Tolerance(*backend_));
    }
  }
}

// Queries turn, and keys and values of the same tokens are stored, as by the ops one by one.
TEST_P(FusedTest, RopeBesidesWriting) {
  const int64_t heads = 5, dim = 40, rotary = 24, positions = 50;
  const std::vector<double> table = reference::RopeTable(positions, rotary, 1e4);
  const Tensor cos_sin = arrays_.Put(DType::kF32, table, {positions, rotary});
  for (const int64_t tokens : {1, 7}) {
    SCOPED_TRACE(testing::Message() << tokens << " tokens");
    std::vector<int32_t> places;
    std::vector<int64_t> slots;
    for (int64_t t = 0; t < tokens; ++t) {
      places.push_back(static_cast<int32_t>(11 * t % positions));
      slots.push_back(t == 3 ? -1 : 3 * t);
    }
    int64_t offset = 0;
    const std::vector<LatentSegment> keys = MakeSegments(LatentFormat::kInt4, {24, 8}, 5, &offset);
    const std::vector<LatentSegment> values = MakeSegments(LatentFormat::kBF16, {40}, 5, &offset);
    const HostPool pool(5, offset, 4);
    const std::vector<double> q = AsActivations(*backend_, random_.Normal(tokens * heads * dim));
    const Tensor key = arrays_.PutActivations(random_.Normal(tokens * 32), {tokens, 32});
    const Tensor value = arrays_.PutActivations(random_.Normal(tokens * 40), {tokens, 40});
    const Tensor slot_mapping = arrays_.PutInts64(slots, {tokens});
    Tensor pools[2], turned[2];
    for (int fused = 0; fused < 2; ++fused) {
      pools[fused] = arrays_.PutBytes(pool.bytes);
      turned[fused] = arrays_.PutActivations(q, {tokens, heads, dim});
      const RopeArgs rope{
          .x = turned[fused], .positions = arrays_.PutInts(places, {tokens}), .cos_sin = cos_sin};
      const auto write = [&](const Tensor& x, const std::vector<LatentSegment>& segments) {
        return LatentWriteArgs{.x = x,
                               .slot_mapping = slot_mapping,
                               .projection = {.groups = segments, .heads_per_group = 1, .up = {}},
                               .pool = pool.View(pools[fused])};
      };
      if (fused == 1) {
        backend_->RopeAndWrite(rope, write(key, keys), write(value, values));
      } else {
        backend_->LatentWrite(write(key, keys));
        backend_->LatentWrite(write(value, values));
      }
    }
    std::vector<double> want = q;
    for (int64_t head = 0; head < tokens * heads; ++head) {
      reference::Rope(&want[head * dim], &table[places[head / heads] * rotary], rotary);
    }
    ExpectClose(arrays_.Get(turned[1]), want, Tolerance(*backend_));
    EXPECT_EQ(arrays_.GetBytes(pools[1]), arrays_.GetBytes(pools[0]));
    EXPECT_NE(arrays_.GetBytes(pools[1]), pool.bytes);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, FusedTest, testing::ValuesIn(AvailableBackends()), CaseName);

}  // namespace
}  // namespace palu
