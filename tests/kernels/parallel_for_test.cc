#include "kernels/cpu/parallel_for.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_set.h"
#include "tests/kernels/test_backend.h"

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

std::vector<int> AllowedCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  EXPECT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

// Each thread may run on its own CPU only, in the order of the list; whoever else calls Run keeps
// what it may use.
TEST(ThreadPoolTest, BindsEachThreadToItsCpu) {
  std::vector<int> cpus = AllowedCpus();
  std::reverse(cpus.begin(), cpus.end());
  const auto threads = static_cast<int>(std::min<size_t>(cpus.size(), 4));
  std::thread([&] {
    ThreadPool pool(threads, cpus);
    EXPECT_EQ(AllowedCpus().size(), cpus.size());
    pool.EnterThread();
    std::vector<std::vector<int>> seen(static_cast<size_t>(threads));
    // On a busy machine a worker may come to its CPU late.
    const auto late = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    const auto waits = [&] {
      return std::any_of(seen.begin(), seen.end(), [](const auto& cpu) { return cpu.empty(); });
    };
    for (int repeat = 0; repeat < 50 || (waits() && std::chrono::steady_clock::now() < late);
         ++repeat) {
      pool.Run(4 * threads, [&](int64_t, int thread) {
        seen[static_cast<size_t>(thread)] = AllowedCpus();
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      });
    }
    for (int i = 0; i < threads; ++i) {
      EXPECT_EQ(seen[static_cast<size_t>(i)], std::vector<int>{cpus[static_cast<size_t>(i)]});
    }
  }).join();
  EXPECT_EQ(AllowedCpus().size(), cpus.size());
}

// Workers that find nothing to do sleep: a pool costs next to no CPU time between steps.
TEST(ThreadPoolTest, IdleWorkersSleep) {
  ThreadPool pool(4);
  std::vector<int> runs(100, 0);
  pool.Run(100, [&](int64_t task, int) { ++runs[task]; });
  const auto cpu_ms = [] {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) * 1e-6;
  };
  // On a busy machine a worker may still be on its way to sleep; it gets there in the end.
  double used = 1e9;
  for (int attempt = 0; attempt < 10 && used >= 10.0; ++attempt) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const double before = cpu_ms();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    used = cpu_ms() - before;
  }
  EXPECT_LT(used, 10.0);
}

TEST(CpuSet, Lists) {
  EXPECT_EQ(ParseCpuList("0"), std::vector<int>{0});
  EXPECT_EQ(ParseCpuList("3,0-2,8"), (std::vector<int>{3, 0, 1, 2, 8}));
  EXPECT_EQ(ParseCpuList("7-7"), std::vector<int>{7});
  for (const char* bad : {"", ",", "1,", "2-1", "-1", "a", "1-", "1;2", "0x1", "0-99999"}) {
    EXPECT_THROW(ParseCpuList(bad), std::runtime_error) << bad;
  }
  EXPECT_THROW(ParseCpuList("0-3,2"), std::runtime_error);
}

TEST(CpuSet, OptionsThatCannotBeMetAreNamed) {
  BackendOptions options;
  options.device = "cpu";
  options.cpu_affinity = "1023";
  EXPECT_NE(CreationError(options).find("cpu_affinity: found CPU 1023, expected some of those"),
            std::string::npos);
  options.cpu_affinity = std::to_string(AllowedCpus().front());
  EXPECT_EQ(CreationError(options), "no error");
  options.cpu_threads = 2;
  EXPECT_EQ(CreationError(options),
            "cpu_threads: found 2, expected at most 1, the CPUs of cpu_affinity");
  options = {};
  options.device = "cpu";
  options.cpu_numa = "local";
  EXPECT_EQ(CreationError(options), "cpu_numa: found \"local\", expected default or interleave");
}

// Memory that is spread over the nodes is memory like any other.
TEST(CpuSet, InterleavedMemory) {
  BackendOptions options;
  options.device = "cpu";
  options.cpu_numa = "interleave";
  std::unique_ptr<Backend> backend;
  try {
    backend = CreateBackend(options);
  } catch (const std::runtime_error& error) {
    GTEST_SKIP() << error.what();
  }
  constexpr size_t kBytes = size_t{5} << 20;
  const Buffer buffer = backend->Allocate(kBytes);
  auto* bytes = static_cast<unsigned char*>(buffer.data());
  for (size_t i = 0; i < kBytes; i += 4096) bytes[i] = static_cast<unsigned char>(i >> 12);
  for (size_t i = 0; i < kBytes; i += 4096) {
    ASSERT_EQ(bytes[i], static_cast<unsigned char>(i >> 12));
  }
  // What the kernel says of the policy of this piece of memory.
  std::ifstream maps("/proc/self/numa_maps");
  if (!maps) GTEST_SKIP() << "no numa_maps";
  bool found = false;
  for (std::string line; std::getline(maps, line);) {
    const uintptr_t start = std::stoull(line, nullptr, 16);
    const auto address = reinterpret_cast<uintptr_t>(bytes);
    if (start == address) found = line.find(" interleave") != std::string::npos;
  }
  EXPECT_TRUE(found);
}

}  // namespace
}  // namespace palu::cpu
