#include "kernels/cpu/parallel_for.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

namespace palu::cpu {
namespace {

// Plain, unsynchronized memory: under ThreadSanitizer this also proves that a job's writes are seen
// by the caller, and the caller's by the next job.
TEST(ThreadPoolTest, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    std::vector<int> runs(1000, 0);
    int expected = 0;
    for (const int tasks : {0, 1, 2, 7, 1000}) {
      for (int repeat = 0; repeat < 50; ++repeat) {
        pool.Run(tasks, [&](int64_t task, int thread) {
          ASSERT_LT(thread, threads);
          ++runs[task];
        });
      }
      expected += 50;
      for (int i = 0; i < tasks; ++i) {
        EXPECT_GE(runs[i], 50);
        runs[i] = 0;
      }
    }
    EXPECT_EQ(expected, 250);
  }
}

TEST(ThreadPoolTest, ThreadNumbersAreExclusive) {
  ThreadPool pool(4);
  std::vector<int64_t> sums(4, 0);
  for (int repeat = 0; repeat < 200; ++repeat) {
    pool.Run(64, [&](int64_t task, int thread) { sums[thread] += task; });
  }
  EXPECT_EQ(sums[0] + sums[1] + sums[2] + sums[3], 200 * 64 * 63 / 2);
}

TEST(ThreadPoolTest, WakesAfterSleeping) {
  ThreadPool pool(3);
  for (int repeat = 0; repeat < 20; ++repeat) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::vector<int> runs(30, 0);
    pool.Run(30, [&](int64_t task, int) { ++runs[task]; });
    EXPECT_EQ(runs, std::vector<int>(30, 1));
  }
}

TEST(ThreadPoolTest, StopsWithoutEverRunning) { ThreadPool pool(5); }

TEST(ThreadPoolTest, UsableCoresIsPositive) { EXPECT_GE(UsableCores(), 1); }

}  // namespace
}  // namespace palu::cpu
