// Decode batches in the shapes that fast decode kernels serve, against the reference in double
// precision: every sequence has one query.
#include "tests/kernels/attention_fixture.h"

namespace palu {
namespace {

class LatentDecodeTest : public KernelTest {
 protected:
  void Check(const AttentionCase& c) {
    SCOPED_TRACE(testing::Message()
                 << c.name << " " << Name(c.key.format) << " " << Name(c.value.format));
    AttentionProblem& problem = *AttentionProblem::Shared(c, *backend_, 5);
    const std::vector<double> got = problem.Values(*backend_, problem.Run(backend_.get()));
    ExpectClose(got, problem.Reference(), 3 * Tolerance(*backend_));
  }
};

const std::vector<SequenceCase> kLengths = {{1, 1},  {15, 1}, {16, 1}, {17, 1},  {31, 1},
                                            {33, 1}, {64, 1}, {65, 1}, {257, 1}, {700, 1}};

AttentionCase Make(const char* name, int q_heads, int kv_heads, int head_dim, int key_group,
                   int key_rank, int value_group, int value_rank, LatentFormat key,
                   LatentFormat value) {
  AttentionCase c;
  c.name = name;
  c.q_heads = q_heads, c.kv_heads = kv_heads, c.head_dim = head_dim;
  c.key = {key_group, std::vector<int>(kv_heads / key_group, key_rank), key};
  c.value = {value_group, std::vector<int>(kv_heads / value_group, value_rank), value};
  c.block_size = 32;
  c.sequences = kLengths;
  return c;
}

AttentionCase MakeDense(const char* name, int q_heads, int kv_heads, int head_dim, int group,
                        LatentFormat format) {
  AttentionCase c = Make(name, q_heads, kv_heads, head_dim, 1, 0, 1, 0, format, format);
  c.key = {group, {}, format};
  c.value = {group, {}, format};
  return c;
}

constexpr LatentFormat kBF16 = LatentFormat::kBF16;
constexpr LatentFormat kFp8 = LatentFormat::kFp8;
constexpr LatentFormat kInt4 = LatentFormat::kInt4;

TEST_P(LatentDecodeTest, Shapes) {
  Check(Make("Mha_s1", 16, 16, 128, 1, 32, 1, 96, kBF16, kBF16));
  Check(Make("Mha_s1_s2", 32, 32, 64, 1, 32, 2, 96, kBF16, kBF16));
  Check(Make("Mha_s2", 8, 8, 128, 2, 64, 2, 192, kBF16, kBF16));
  Check(Make("Gqa_s1", 32, 8, 128, 1, 32, 1, 96, kBF16, kBF16));
  Check(Make("Gqa_s2", 16, 4, 64, 2, 64, 2, 200, kBF16, kBF16));
  Check(Make("Gqa_s4", 16, 4, 128, 4, 64, 4, 256, kBF16, kBF16));
  Check(Make("OddHeads", 15, 5, 64, 1, 32, 5, 40, kBF16, kBF16));
  Check(Make("Mha96", 16, 16, 96, 1, 32, 1, 72, kBF16, kBF16));
  Check(Make("Mha96_s2", 8, 8, 96, 2, 56, 2, 136, kBF16, kBF16));
  Check(Make("Repeat7", 28, 4, 128, 1, 64, 2, 128, kBF16, kBF16));
}

TEST_P(LatentDecodeTest, Fp8Shapes) {
  Check(Make("Mha_s1_s2", 8, 8, 64, 1, 32, 2, 96, kFp8, kFp8));
  Check(Make("Mha_s2", 4, 4, 128, 2, 64, 2, 192, kFp8, kFp8));
  Check(Make("Mha_s4", 4, 4, 128, 4, 128, 4, 256, kFp8, kFp8));
  Check(Make("Gqa_s2", 8, 4, 64, 2, 72, 2, 200, kFp8, kFp8));
  Check(Make("OddHeads", 9, 3, 64, 1, 40, 3, 72, kFp8, kFp8));
  Check(Make("Mha96", 4, 4, 96, 1, 24, 1, 72, kFp8, kFp8));
  Check(Make("Repeat7", 7, 1, 128, 1, 48, 1, 80, kFp8, kFp8));
  AttentionCase c = Make("Window", 4, 2, 128, 1, 32, 1, 96, kFp8, kFp8);
  c.sequences = {{1200, 1}, {3, 1}, {99, 1}};
  c.window = 100;
  Check(c);
}

TEST_P(LatentDecodeTest, Formats) {
  for (LatentFormat format :
       {kFp8, LatentFormat::kInt8, LatentFormat::kInt4, LatentFormat::kInt3, LatentFormat::kInt2}) {
    Check(Make("Gqa_s1", 16, 4, 128, 1, 32, 1, 96, format, format));
    Check(Make("Mha_s2", 8, 8, 64, 2, 64, 2, 176, format, LatentFormat::kInt4));
    Check(Make("Mha96", 8, 8, 96, 1, 32, 1, 64, format, format));
    Check(Make("OddRank", 8, 4, 64, 2, 64, 2, 72, LatentFormat::kInt8, format));
  }
}

TEST_P(LatentDecodeTest, LongAndWindowed) {
  for (LatentFormat format : {kBF16, kInt4}) {
    AttentionCase c = Make("Long", 16, 4, 64, 1, 32, 1, 48, format, format);
    c.sequences = {{9001, 1}};
    Check(c);
    c.name = "LongMixed";
    c.block_size = 16;
    c.sequences = {{5000, 1}, {3, 1}, {2049, 1}};
    Check(c);
    for (const int window : {1, 16, 100, 1500}) {
      c.name = "Window" + std::to_string(window);
      c.window = window;
      Check(c);
    }
  }
}

TEST_P(LatentDecodeTest, KeyRanks) {
  for (const LatentFormat format : {kBF16, kFp8, kInt4}) {
    for (const int rank : {16, 48, 96, 128}) {
      Check(Make("Mha", 4, 4, 128, 2, rank, 2, 64, format, format));
      Check(Make("Gqa", 8, 2, 128, 2, rank, 2, 160, format, format));
    }
  }
}

TEST_P(LatentDecodeTest, Dense) {
  for (const LatentFormat format : {kBF16, kFp8, LatentFormat::kInt8, kInt4, LatentFormat::kInt2}) {
    Check(MakeDense("Mha", 8, 8, 128, 1, format));
    Check(MakeDense("Gqa", 8, 2, 128, 2, format));
    Check(MakeDense("Gqa64", 12, 3, 64, 1, format));
    Check(MakeDense("Mha96", 8, 8, 96, 1, format));
    Check(MakeDense("Gqa96", 6, 2, 96, 2, format));
    Check(MakeDense("Gqa256", 8, 4, 256, 1, format));
    Check(MakeDense("Mqa256", 4, 1, 256, 1, format));
  }
}

TEST_P(LatentDecodeTest, KeyBiases) {
  for (const LatentFormat format : {kBF16, kFp8, kInt4}) {
    for (AttentionCase c : {Make("Gqa", 16, 4, 128, 1, 32, 1, 96, format, format),
                            Make("Gqa_s2", 14, 2, 64, 2, 64, 2, 128, format, format),
                            Make("Mha", 8, 8, 128, 1, 32, 1, 96, format, format),
                            Make("Mha96", 4, 4, 96, 1, 24, 1, 72, format, format),
                            Make("Mha_s2", 4, 4, 128, 2, 96, 2, 160, format, format)}) {
      c.biases = true;
      Check(c);
    }
  }
}

// The kernel starts while the step's write of the newest tokens is still under way.
TEST_P(LatentDecodeTest, AsARecordedStep) {
  for (AttentionCase c : {Make("Gqa", 16, 4, 128, 1, 32, 1, 96, kBF16, kBF16),
                          Make("Mha", 8, 8, 128, 1, 32, 1, 96, kBF16, kBF16),
                          Make("Fp8", 2, 2, 128, 1, 32, 1, 96, kFp8, kFp8),
                          MakeDense("Dense", 8, 2, 128, 1, kBF16)}) {
    for (const std::vector<SequenceCase>& sequences :
         {std::vector<SequenceCase>{{1999, 1}}, kLengths}) {
      SCOPED_TRACE(testing::Message() << c.name << " " << sequences.size());
      c.sequences = sequences;
      AttentionProblem& problem = *AttentionProblem::Shared(c, *backend_, 5);
      const std::vector<uint8_t> stepped = problem.RunAsSteps(backend_.get(), 4);
      EXPECT_EQ(stepped, problem.Run(backend_.get()));
      ExpectClose(problem.Values(*backend_, stepped), problem.Reference(),
                  3 * Tolerance(*backend_));
    }
  }
}

// Several stages of the ring, cache blocks shorter and longer than a stage.
TEST_P(LatentDecodeTest, BlockSizes) {
  for (const int block_size : {16, 64, 256}) {
    for (const LatentFormat format : {kBF16, kFp8, kInt4}) {
      AttentionCase c = Make("Mha", 2, 2, 128, 1, 32, 1, 96, format, format);
      c.block_size = block_size;
      c.sequences = {{2000, 1}, {63, 1}, {1, 1}, {129, 1}};
      Check(c);
      c = MakeDense("Dense", 4, 1, 128, 1, format);
      c.block_size = block_size;
      c.sequences = {{1500, 1}, {65, 1}};
      Check(c);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, LatentDecodeTest, testing::ValuesIn(AvailableBackends()),
                         CaseName);

}  // namespace
}  // namespace palu
