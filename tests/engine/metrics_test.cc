#include "engine/metrics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

namespace palu {
namespace {

TEST(Histogram, BoundsBelongToTheBucketBelow) {
  Histogram histogram({1, 2});
  histogram.Observe(0.5);
  histogram.Observe(1);
  histogram.Observe(1.5, 3);
  histogram.Observe(7);
  const HistogramSnapshot snapshot = histogram.Snapshot();
  EXPECT_EQ(snapshot.bounds, (std::vector<double>{1, 2}));
  EXPECT_EQ(snapshot.counts, (std::vector<uint64_t>{2, 3, 1}));
  EXPECT_EQ(snapshot.count, 6u);
  EXPECT_DOUBLE_EQ(snapshot.sum, 0.5 + 1 + 4.5 + 7);
}

TEST(Histogram, ThreadsLoseNoObservation) {
  Histogram histogram({1});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) histogram.Observe(i % 2 == 0 ? 0.5 : 2.0);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(histogram.Snapshot().counts, (std::vector<uint64_t>{10000, 10000}));
}

TEST(EngineMetrics, BucketsOfTheWireContract) {
  const EngineMetrics metrics(300);
  const MetricsSnapshot s = metrics.Snapshot();
  EXPECT_EQ(s.time_to_first_token.bounds,
            (std::vector<double>{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                 1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560}));
  const std::vector<double> per_token = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                         .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
  EXPECT_EQ(s.inter_token_latency.bounds, per_token);
  EXPECT_EQ(s.time_per_output_token.bounds, per_token);
  const std::vector<double> request = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                       30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
  for (const auto* histogram :
       {&s.e2e_latency, &s.queue_time, &s.prefill_time, &s.decode_time, &s.inference_time}) {
    EXPECT_EQ(histogram->bounds, request);
  }
  EXPECT_EQ(s.request_prompt_tokens.bounds, (std::vector<double>{1, 2, 5, 10, 20, 50, 100, 200}));
  EXPECT_EQ(s.request_generation_tokens.bounds, s.request_prompt_tokens.bounds);
  EXPECT_EQ(s.iteration_tokens.bounds,
            (std::vector<double>{1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}));
  for (const HistogramSnapshot& phase : s.step_phase_seconds) {
    EXPECT_TRUE(std::is_sorted(phase.bounds.begin(), phase.bounds.end()));
    EXPECT_EQ(phase.counts.size(), phase.bounds.size() + 1);
  }
}

}  // namespace
}  // namespace palu
