#include <algorithm>
#include <cmath>

#include "tests/kernels/reference/float_formats.h"
#include "tests/kernels/sample_fixture.h"

namespace palu {
namespace {

std::vector<double> Logits(Random* random, size_t count, double deviation = 2.0) {
  return reference::Rounded(DType::kF32, random->Normal(count, deviation));
}

using SampleTest = KernelTest;

TEST_P(SampleTest, GreedyTakesTheLargestAndTheLowestOfEquals) {
  SampleCase a{.logits = {0, 3, 1, 3, -2}};
  SampleCase b{.logits = {-5, -4, -3, -9, -3}};
  SampleCase c{.logits = {1, 1, 1, 1, 1}};
  EXPECT_EQ(RunSample(backend_.get(), {a, b, c}).tokens, (std::vector<int32_t>{1, 2, 0}));
}

TEST_P(SampleTest, GreedyOverALargeVocabulary) {
  Random random(1);
  for (const size_t size : {1, 31, 32, 33, 8191, 32768}) {
    SampleCase row{.logits = Logits(&random, size)};
    const auto best = std::max_element(row.logits.begin(), row.logits.end());
    EXPECT_EQ(RunSample(backend_.get(), {row}).tokens[0], best - row.logits.begin());
  }
  SampleCase equals{.logits = Logits(&random, 3000)};
  equals.logits[1700] = equals.logits[1701] = equals.logits[2600] = 100;
  EXPECT_EQ(RunSample(backend_.get(), {equals}).tokens[0], 1700);
}

TEST_P(SampleTest, BiasMovesAndBans) {
  SampleCase raised{.logits = {0, 3, 1, 2}, .bias = {{2, 2.5f}}};
  SampleCase banned{.logits = {0, 3, 1, 2}, .bias = {{1, kBanned}, {3, kBanned}}};
  SampleCase twice{.logits = {0, 3, 1, 2}, .bias = {{0, 2.0f}, {0, 2.0f}}};
  SampleCase plain{.logits = {0, 3, 1, 2}};
  EXPECT_EQ(RunSample(backend_.get(), {raised, banned, twice, plain}).tokens,
            (std::vector<int32_t>{2, 2, 0, 1}));
}

TEST_P(SampleTest, MaskLeavesOnlyAllowedTokens) {
  Random random(2);
  SampleCase row{.logits = Logits(&random, 100)};
  row.logits[50] = 100;
  SampleCase masked = row;
  masked.allowed = {3, 31, 32, 63, 64, 99};
  SampleCase sampled = masked;
  sampled.temperature = 1.5f;
  const std::vector<int32_t> tokens = RunSample(backend_.get(), {masked, row, sampled}).tokens;
  EXPECT_EQ(tokens[0],
            *std::max_element(masked.allowed.begin(), masked.allowed.end(),
                              [&](int32_t a, int32_t b) { return row.logits[a] < row.logits[b]; }));
  EXPECT_EQ(tokens[1], 50);
  EXPECT_NE(std::find(masked.allowed.begin(), masked.allowed.end(), tokens[2]),
            masked.allowed.end());
}

TEST_P(SampleTest, PenaltiesCountPromptAndOutputAsDocumented) {
  const std::vector<double> logits = {4.0, 3.0, 2.0, -1.0};
  // Repetition divides positive logits of prompt and output tokens once each: 4 / 2 < 3.
  SampleCase repetition{.logits = logits, .repetition = 2.0f, .prompt = {0, 0, 0}};
  // Presence and frequency touch output tokens only.
  SampleCase prompt_only{.logits = logits, .presence = 2.0f, .frequency = 2.0f, .prompt = {0}};
  SampleCase presence{.logits = logits, .presence = 1.5f, .output = {0, 0, 0}};
  SampleCase frequency{.logits = logits, .frequency = 0.4f, .output = {0, 0, 0}};
  SampleCase frequency_once{.logits = logits, .frequency = 0.4f, .output = {0}};
  // A negative logit is multiplied: -1 * 2 falls below -1.5.
  SampleCase negative{.logits = {-1.0, -1.5, -9.0, -9.0}, .repetition = 2.0f, .output = {0}};
  EXPECT_EQ(RunSample(backend_.get(),
                      {repetition, prompt_only, presence, frequency, frequency_once, negative})
                .tokens,
            (std::vector<int32_t>{1, 0, 1, 1, 0, 1}));
}

TEST_P(SampleTest, ForcedTokenIsReportedWhateverElseIsAsked) {
  Random random(3);
  SampleCase row{.logits = Logits(&random, 64), .temperature = 1.0f, .forced_token = 17};
  row.num_logprobs = 0;
  row.bias = {{17, kBanned}};
  const Sampled sampled = RunSample(backend_.get(), {row});
  EXPECT_EQ(sampled.tokens[0], 17);
  EXPECT_NEAR(sampled.logprobs[0], RawLogprobs(row)[17], 1e-5);
}

// Reported numbers are of the raw distribution: before bias, penalties, temperature and mask.
TEST_P(SampleTest, LogprobsAndRanksMatchDouble) {
  Random random(4);
  for (const size_t size : {5, 64, 8192}) {
    std::vector<SampleCase> rows;
    for (const int wanted : {-1, 0, 1, 5, kMaxLogprobs}) {
      SampleCase row{.logits = Logits(&random, size, 4.0), .temperature = 1.0f};
      row.num_logprobs = wanted;
      row.seed = wanted;
      row.bias = {{3, 4.0f}};
      row.repetition = 1.3f;
      row.output = {1, 2};
      rows.push_back(row);
    }
    const Sampled sampled = RunSample(backend_.get(), rows);
    for (size_t r = 0; r < rows.size(); ++r) {
      if (rows[r].num_logprobs < 0) continue;
      SCOPED_TRACE(testing::Message() << size << " wanted " << rows[r].num_logprobs);
      const std::vector<double> want = RawLogprobs(rows[r]);
      const int32_t token = sampled.tokens[r];
      EXPECT_NEAR(sampled.logprobs[r], want[token], 1e-5);
      EXPECT_EQ(sampled.ranks[r], 1 + std::count_if(want.begin(), want.end(),
                                                    [&](double p) { return p > want[token]; }));
      std::vector<double> sorted = want;
      std::sort(sorted.rbegin(), sorted.rend());
      const size_t shown = std::min<size_t>(rows[r].num_logprobs, size);
      for (size_t i = 0; i < shown; ++i) {
        EXPECT_NEAR(sampled.top_logprobs[r * kMaxLogprobs + i], sorted[i], 1e-5);
        EXPECT_NEAR(want[sampled.top_tokens[r * kMaxLogprobs + i]], sorted[i], 1e-9);
      }
    }
  }
}

TEST_P(SampleTest, EqualTopTokensComeByIndex) {
  SampleCase row{.logits = {1, 2, 2, 0, 2}};
  row.num_logprobs = 4;
  const Sampled sampled = RunSample(backend_.get(), {row});
  EXPECT_EQ(sampled.ranks[0], 1);
  EXPECT_EQ(std::vector<int32_t>(sampled.top_tokens.begin(), sampled.top_tokens.begin() + 4),
            (std::vector<int32_t>{1, 2, 4, 0}));
}

// The draw is a function of (seed, draw index) and the row, not of the batch around it.
TEST_P(SampleTest, DrawsDoNotDependOnTheBatch) {
  Random random(5);
  std::vector<SampleCase> rows;
  for (int i = 0; i < 40; ++i) {
    SampleCase row{.logits = Logits(&random, 500), .temperature = 1.0f};
    row.seed = random.Integer(0, 1 << 30);
    row.draw_index = i;
    if (i % 3 == 0) row.top_k = 40;
    if (i % 4 == 0) row.top_p = 0.9f;
    if (i % 5 == 0) row.repetition = 1.2f, row.output = {1, 2, 3};
    if (i % 7 == 0) row.allowed = {5, 6, 7, 8};
    rows.push_back(row);
  }
  const std::vector<int32_t> together = RunSample(backend_.get(), rows).tokens;
  for (size_t r = 0; r < rows.size(); ++r) {
    EXPECT_EQ(RunSample(backend_.get(), {rows[r]}).tokens[0], together[r]);
  }
  std::vector<SampleCase> reversed(rows.rbegin(), rows.rend());
  std::vector<int32_t> tokens = RunSample(WithThreads(1).get(), reversed).tokens;
  std::reverse(tokens.begin(), tokens.end());
  EXPECT_EQ(tokens, together);
}

// The number in [0, 1) that a draw is made with, on every backend.
double UniformNumber(uint64_t seed, uint64_t draw_index) {
  const auto mix = [](uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  };
  return static_cast<double>(mix(mix(seed) ^ mix(~draw_index)) >> 11) * 0x1p-53;
}

// Inverse of the cumulative distribution: in the order of tokens or, after top_k and top_p, of
// falling logits. A drawn token's stretch of it must hold the number, to the precision of floats.
void ExpectDrawsByDefinition(Backend* backend, const SampleCase& row) {
  constexpr int kDraws = 30;
  constexpr double kTolerance = 1e-5;
  const std::map<int32_t, double> want = Distribution(row);
  std::vector<int32_t> order;
  for (const auto& [token, probability] : want) order.push_back(token);
  std::vector<double> logits = row.logits;
  for (const auto& [token, value] : row.bias) logits[static_cast<size_t>(token)] += value;
  if (row.top_k > 0 || row.top_p < 1.0f) {
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
  }
  std::map<int32_t, double> below;
  double sum = 0;
  for (const int32_t token : order) {
    below[token] = sum;
    sum += want.at(token);
  }
  std::vector<SampleCase> rows(kDraws, row);
  for (int i = 0; i < kDraws; ++i) {
    rows[static_cast<size_t>(i)].seed = 1000 + i;
    rows[static_cast<size_t>(i)].draw_index = i % 7;
  }
  const std::vector<int32_t> tokens = RunSample(backend, rows).tokens;
  for (int i = 0; i < kDraws; ++i) {
    const int32_t token = tokens[static_cast<size_t>(i)];
    ASSERT_TRUE(want.contains(token)) << token;
    const double u = UniformNumber(1000 + i, i % 7);
    EXPECT_GE(u, below[token] - kTolerance) << token;
    EXPECT_LE(u, below[token] + want.at(token) + kTolerance) << token;
  }
}

TEST_P(SampleTest, DrawsAreThoseOfTheDefinition) {
  constexpr size_t kVocabulary = 5003;
  Random random(9);
  std::vector<double> peaked(kVocabulary), flat = Logits(&random, kVocabulary, 1.5);
  for (size_t t = 0; t < kVocabulary; ++t) {
    peaked[t * 2741 % kVocabulary] = -1.5 * std::log(static_cast<double>(t + 1)) + 0.1 * flat[t];
  }
  peaked = reference::Rounded(DType::kF32, peaked);
  std::vector<double> few(kVocabulary, -INFINITY), equal(kVocabulary, 1.0);
  for (size_t t = 100; t < kVocabulary; t += 611) few[t] = flat[t];
  for (const std::vector<double>* logits : {&peaked, &flat, &few, &equal}) {
    const auto check = [&](auto&& change) {
      SampleCase row{.logits = *logits, .temperature = 1.0f};
      change(&row);
      SCOPED_TRACE(testing::Message()
                   << "logits "
                   << (logits == &peaked ? "peaked"
                       : logits == &flat ? "flat"
                       : logits == &few  ? "few"
                                         : "equal")
                   << " temperature " << row.temperature << " top_k " << row.top_k << " top_p "
                   << row.top_p << " min_p " << row.min_p);
      ExpectDrawsByDefinition(backend_.get(), row);
    };
    check([](SampleCase* c) {});
    check([](SampleCase* c) { c->temperature = 0.3f; });
    check([](SampleCase* c) { c->min_p = 0.05f, c->temperature = 2.0f; });
    check([](SampleCase* c) { c->min_p = 1.0f; });
    for (const float top_p : {0.01f, 0.5f, 0.9f, 0.999f}) {
      check([&](SampleCase* c) { c->top_p = top_p; });
      check([&](SampleCase* c) { c->top_p = top_p, c->min_p = 0.01f, c->temperature = 0.8f; });
    }
    for (const int top_k : {1, 3, 20, 50, 5000, 9999}) {
      check([&](SampleCase* c) { c->top_k = top_k; });
      check([&](SampleCase* c) { c->top_k = top_k, c->top_p = 0.8f; });
    }
    check([](SampleCase* c) { c->bias = {{100, 3.0f}, {711, -2.0f}}, c->top_p = 0.7f; });
  }
}

TEST_P(SampleTest, TinyTemperatureIsGreedyAndHugeLogitsAreNotNan) {
  SampleCase cold{.logits = {1.0, 1.001, 0.5}, .temperature = 1e-6f};
  SampleCase huge{.logits = {1e30, -1e30, 3e30}, .temperature = 0.7f};
  SampleCase lone{.logits = {0, 0, 0}, .temperature = 1.0f};
  lone.bias = {{0, kBanned}, {2, kBanned}};
  EXPECT_EQ(RunSample(backend_.get(), {cold, huge, lone}).tokens, (std::vector<int32_t>{1, 2, 1}));
}

// Chi-square of many draws against the distribution computed by definition.
class SampleDistributionTest : public KernelTest {
 protected:
  void Check(SampleCase row) {
    constexpr int kRows = 500, kRounds = 40;
    const std::map<int32_t, double> want = Distribution(row);
    std::map<int32_t, int> counts;
    for (int round = 0; round < kRounds; ++round) {
      std::vector<SampleCase> rows(kRows, row);
      for (int r = 0; r < kRows; ++r) {
        // Both halves of the key vary: few seeds with many draws.
        rows[r].seed = round % 4;
        rows[r].draw_index = int64_t{round} / 4 * kRows + r;
      }
      for (int32_t token : RunSample(backend_.get(), rows).tokens) ++counts[token];
    }
    double statistic = 0, rest_expected = 0, rest_counted = 0;
    int cells = 0;
    for (const auto& [token, count] : counts) {
      ASSERT_TRUE(want.contains(token)) << "token " << token << " is not in the distribution";
    }
    for (const auto& [token, probability] : want) {
      const double expected = probability * kRows * kRounds;
      if (expected < 10) {
        rest_expected += expected;
        rest_counted += counts[token];
        continue;
      }
      statistic += (counts[token] - expected) * (counts[token] - expected) / expected;
      ++cells;
    }
    if (rest_expected > 0) {
      statistic += (rest_counted - rest_expected) * (rest_counted - rest_expected) / rest_expected;
    }
    // Four standard deviations above the mean of the chi-square distribution.
    EXPECT_LT(statistic, cells + 4 * std::sqrt(2.0 * cells) + 4);
  }
};

TEST_P(SampleDistributionTest, MatchesTheDefinition) {
  Random random(6);
  const std::vector<double> logits = Logits(&random, 60, 1.5);
  const auto row = [&](auto&& change) {
    SampleCase c{.logits = logits, .temperature = 1.0f};
    change(&c);
    Check(c);
  };
  row([](SampleCase* c) {});
  row([](SampleCase* c) { c->temperature = 0.6f; });
  row([](SampleCase* c) { c->temperature = 3.0f; });
  row([](SampleCase* c) { c->top_k = 7; });
  row([](SampleCase* c) { c->top_p = 0.75f; });
  row([](SampleCase* c) { c->min_p = 0.2f; });
  row([](SampleCase* c) { c->top_k = 20, c->top_p = 0.8f, c->min_p = 0.1f; });
  row([](SampleCase* c) { c->top_k = 1000, c->top_p = 0.99f, c->temperature = 2.0f; });
  row([](SampleCase* c) {
    c->repetition = 1.5f, c->presence = 0.5f, c->frequency = 0.3f;
    c->prompt = {1, 2, 3, 3}, c->output = {3, 4, 4, 4, 5};
    c->bias = {{7, 2.0f}, {8, kBanned}};
    c->top_p = 0.95f;
  });
  row([](SampleCase* c) { c->allowed = {1, 30, 31, 32, 59}, c->temperature = 2.0f; });
}

// A flat distribution makes top_p keep many tokens, more than are sorted at first.
TEST_P(SampleDistributionTest, FlatDistribution) {
  SampleCase row{.logits = std::vector<double>(1000), .temperature = 1.0f};
  for (size_t t = 0; t < row.logits.size(); ++t) row.logits[t] = 1e-3 * static_cast<double>(t);
  row.logits = reference::Rounded(DType::kF32, row.logits);
  row.top_p = 0.9f;
  Check(row);
}

INSTANTIATE_TEST_SUITE_P(Backends, SampleTest, testing::ValuesIn(AvailableBackends()), CaseName);
INSTANTIATE_TEST_SUITE_P(Backends, SampleDistributionTest, testing::ValuesIn(AvailableBackends()),
                         CaseName);

}  // namespace
}  // namespace palu
