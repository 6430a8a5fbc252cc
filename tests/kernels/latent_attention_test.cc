#include "tests/kernels/attention_fixture.h"

namespace palu {
namespace {

// Prefill, continued prefill and decode in one batch, with lengths around block and tile borders.
const std::vector<SequenceCase> kMixed = {{1, 1},  {15, 1},  {16, 16}, {17, 1},  {64, 3},
                                          {65, 1}, {70, 20}, {130, 2}, {300, 1}, {33, 33}};
const std::vector<SequenceCase> kShort = {{9, 9}, {77, 1}, {40, 5}};

std::vector<AttentionCase> FormatCases() {
  std::vector<AttentionCase> cases;
  for (LatentFormat key : kAllFormats) {
    // A different format for values, so that every format serves both.
    const auto value = kAllFormats[(static_cast<size_t>(key) + 3) % std::size(kAllFormats)];
    AttentionCase c;
    c.name = std::string("LowRank_") + Name(key) + "_" + Name(value);
    c.q_heads = 8, c.kv_heads = 4, c.head_dim = 32;
    c.key = {2, {24, 40}, key, DType::kBF16};
    c.value = {4, {72}, value, DType::kF16};
    c.sequences = kMixed;
    cases.push_back(c);
    c.name = std::string("Dense_") + Name(key) + "_" + Name(value);
    c.key = {1, {}, key};
    c.value = {2, {}, value};
    c.sequences = kShort;
    cases.push_back(c);
  }
  return cases;
}

std::vector<AttentionCase> ShapeCases() {
  const auto make = [](const char* name, int q_heads, int kv_heads, int dim, ProjectionCase key,
                       ProjectionCase value) {
    AttentionCase c;
    c.name = name;
    c.q_heads = q_heads, c.kv_heads = kv_heads, c.head_dim = dim;
    c.key = std::move(key), c.value = std::move(value);
    c.sequences = kShort;
    return c;
  };
  const LatentFormat b = LatentFormat::kBF16;
  std::vector<AttentionCase> cases = {
      make("Mha_dim8", 4, 4, 8, {1, {4, 5, 6, 7}, b}, {2, {9, 16}, b}),
      make("OddHeads", 15, 5, 24, {1, {8, 16, 24, 3, 1}, b}, {5, {60}, b}),
      make("OneHead_dim256", 1, 1, 256, {1, {100}, b}, {1, {300}, b}),
      make("Mqa", 7, 1, 64, {1, {32}, b}, {1, {64}, b}),
      make("DenseKey_LowRankValue", 6, 3, 80, {3, {}, b}, {1, {17, 33, 50}, b}),
      make("LowRankKey_DenseValue", 6, 3, 80, {1, {17, 33, 50}, b}, {3, {}, b}),
      make("UnlikeGroups", 12, 6, 16, {2, {8, 9, 10}, b}, {3, {20, 12}, b}),
      make("Joint", 8, 8, 40, {8, {200}, b}, {8, {320}, b}),
      make("FloatFactors", 4, 2, 48, {2, {37}, LatentFormat::kF32, DType::kF32},
           {1, {21, 48}, LatentFormat::kF32, DType::kF32}),
      make("DenseOddDim", 3, 3, 20, {1, {}, LatentFormat::kF32}, {1, {}, LatentFormat::kInt8}),
  };
  return cases;
}

std::vector<AttentionCase> OptionCases() {
  std::vector<AttentionCase> cases;
  AttentionCase base;
  base.q_heads = 8, base.kv_heads = 4, base.head_dim = 64;
  base.key = {2, {32, 48}, LatentFormat::kBF16};
  base.value = {4, {96}, LatentFormat::kInt4};
  base.sequences = kMixed;
  const auto add = [&](const char* name, auto&& change) {
    AttentionCase c = base;
    c.name = name;
    change(&c);
    cases.push_back(c);
  };
  add("Biases", [](AttentionCase* c) { c->biases = true; });
  add("KeyNorm", [](AttentionCase* c) { c->k_norm = true; });
  add("KeyNormAndBiases", [](AttentionCase* c) { c->k_norm = c->biases = true; });
  add("PartialRotary", [](AttentionCase* c) { c->rotary_dim = 24; });
  add("Window1", [](AttentionCase* c) { c->window = 1; });
  add("Window20", [](AttentionCase* c) { c->window = 20; });
  add("Window100_Dense", [](AttentionCase* c) {
    c->window = 100;
    c->key = {1, {}, LatentFormat::kF16};
    c->value = {1, {}, LatentFormat::kF16};
  });
  add("Block1", [](AttentionCase* c) { c->block_size = 1; });
  add("Block7", [](AttentionCase* c) { c->block_size = 7; });
  add("Block256", [](AttentionCase* c) { c->block_size = 256; });
  add("Long", [](AttentionCase* c) { c->sequences = {{1500, 1}, {700, 2}, {5000, 1}}; });
  add("LongWindow", [](AttentionCase* c) {
    c->sequences = {{1500, 3}, {5000, 1}};
    c->window = 700;
  });
  add("LongPrefill", [](AttentionCase* c) { c->sequences = {{600, 400}}; });
  add("AcrossSplitLengths", [](AttentionCase* c) { c->sequences = {{4100, 8}}; });
  return cases;
}

// Keys from a factor in the backend's own form.
std::vector<AttentionCase> PackedCases() {
  std::vector<AttentionCase> cases;
  for (const LatentFormat format : kAllFormats) {
    AttentionCase c;
    c.name = std::string("Packed_") + Name(format);
    c.q_heads = 8, c.kv_heads = 4, c.head_dim = 64;
    c.key = {2, {96, 37}, format};
    c.value = {4, {72}, LatentFormat::kInt4};
    c.sequences = kMixed;
    c.packed = true;
    cases.push_back(c);
    c.name += "_BiasNormPartialRotary";
    c.head_dim = 40;
    c.key.ranks = {3, 129};
    c.biases = c.k_norm = true;
    c.rotary_dim = 16;
    cases.push_back(c);
    if (Bits(format) > 4) continue;
    c.name = std::string("Packed_") + Name(format) + "_BiasPartialRotary";
    c.k_norm = false;
    c.rotary_dim = 12;
    c.rope_factor = 1.3;
    cases.push_back(c);
    c.name = std::string("Packed_") + Name(format) + "_OddHead";
    c.head_dim = 15;
    cases.push_back(c);
  }
  return cases;
}

class LatentAttentionTest : public KernelTest {
 protected:
  void Check(const std::vector<AttentionCase>& cases) {
    uint64_t seed = 1;
    for (const AttentionCase& c : cases) {
      SCOPED_TRACE(c.name);
      AttentionProblem& problem = *AttentionProblem::Shared(c, *backend_, seed++);
      const std::vector<double> got = problem.Values(*backend_, problem.Run(backend_.get()));
      ExpectClose(got, problem.Reference(), 3 * Tolerance(*backend_));
    }
  }
};

TEST_P(LatentAttentionTest, Formats) { Check(FormatCases()); }
TEST_P(LatentAttentionTest, Shapes) { Check(ShapeCases()); }
TEST_P(LatentAttentionTest, PackedFactors) { Check(PackedCases()); }
TEST_P(LatentAttentionTest, Options) { Check(OptionCases()); }

using Piece = AttentionProblem::Piece;

// Bit for bit the same however the queries are cut into chunks, whatever else is in the batch and
// however many threads there are.
class AttentionInvarianceTest : public LatentAttentionTest {
 protected:
  void CheckChunks(const AttentionCase& c) {
    if (backend_->activation_dtype() == DType::kBF16) {
      GTEST_SKIP() << "decode is split by the number of sequences";
    }
    SCOPED_TRACE(c.name);
    AttentionProblem& problem = *AttentionProblem::Shared(c, *backend_, 77);
    const std::vector<uint8_t> want = problem.Run(backend_.get());
    for (const int chunk : {1, 3, 16, 50}) {
      EXPECT_EQ(RunChunks(&problem, c, chunk), want) << "chunks of " << chunk;
    }
    for (const int threads : {1, 7}) {
      EXPECT_EQ(problem.Run(WithThreads(threads).get()), want) << threads << " threads";
    }
    std::vector<Piece> crowd;
    for (int s = static_cast<int>(c.sequences.size()) - 1; s >= 0; --s) {
      crowd.push_back({s, 0, c.sequences[s].queries});
    }
    const std::vector<uint8_t> reversed = problem.RunPieces(backend_.get(), crowd);
    const size_t row = want.size() / problem.tokens();
    const size_t first = c.sequences[0].queries * row;
    EXPECT_TRUE(std::equal(want.begin(), want.begin() + first, reversed.end() - first));
  }

  std::vector<uint8_t> RunChunks(AttentionProblem* problem, const AttentionCase& c, int chunk) {
    std::vector<uint8_t> all;
    for (int s = 0; s < static_cast<int>(c.sequences.size()); ++s) {
      for (int i = 0; i < c.sequences[s].queries; i += chunk) {
        const int count = std::min(chunk, c.sequences[s].queries - i);
        const std::vector<uint8_t> part = problem->RunPieces(backend_.get(), {{s, i, count}});
        all.insert(all.end(), part.begin(), part.end());
      }
    }
    return all;
  }
};

TEST_P(AttentionInvarianceTest, LowRank) {
  AttentionCase c;
  c.name = "LowRank";
  c.q_heads = 8, c.kv_heads = 4, c.head_dim = 32;
  c.key = {2, {24, 40}, LatentFormat::kInt4};
  c.value = {4, {72}, LatentFormat::kInt3};
  c.sequences = {{200, 200}, {330, 30}, {1100, 5}, {64, 1}, {4110, 40}};
  CheckChunks(c);
  c.window = 90;
  c.name = "LowRankWindow";
  CheckChunks(c);
  c.packed = true;
  c.name = "PackedWindow";
  CheckChunks(c);
  c.window = 0;
  c.name = "Packed";
  CheckChunks(c);
  c.rotary_dim = 12;
  c.biases = true;
  c.sequences = {{150, 150}, {330, 10}};
  c.name = "PackedPartialRotary";
  CheckChunks(c);
}

TEST_P(AttentionInvarianceTest, Dense) {
  AttentionCase c;
  c.name = "Dense";
  c.q_heads = 6, c.kv_heads = 2, c.head_dim = 48;
  c.key = {1, {}, LatentFormat::kBF16};
  c.value = {2, {}, LatentFormat::kF32};
  c.sequences = {{170, 170}, {600, 20}, {1, 1}};
  CheckChunks(c);
}

INSTANTIATE_TEST_SUITE_P(Backends, LatentAttentionTest, testing::ValuesIn(AvailableBackends()),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Backends, AttentionInvarianceTest, testing::ValuesIn(AvailableBackends()),
                         CaseName);

}  // namespace
}  // namespace palu
