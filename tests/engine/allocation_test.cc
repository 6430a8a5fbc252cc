// A warm step allocates nothing but what leaves with it: operator new is counted, on the engine's
// thread and on the pool's workers.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <latch>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "engine/model/json_file.h"
#include "engine/model/model_runner.h"
#include "tests/engine/engine_fixture.h"
#include "tests/test_paths.h"

namespace {

std::atomic<int64_t> allocations{0};
// The test's own thread, which reads what was made.
thread_local bool counts = true;

}  // namespace

// Sanitizers have an operator new of their own.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define PALU_COUNTS_ALLOCATIONS 1

// What GCC says of free() here is meant for a new that is not replaced too.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

void* operator new(size_t size) {
  if (counts) allocations.fetch_add(1, std::memory_order_relaxed);
  void* data = std::malloc(size == 0 ? 1 : size);
  if (data == nullptr) throw std::bad_alloc();
  return data;
}
void* operator new(size_t size, std::align_val_t alignment) {
  if (counts) allocations.fetch_add(1, std::memory_order_relaxed);
  const auto line = static_cast<size_t>(alignment);
  void* data = std::aligned_alloc(line, (size + line - 1) / line * line);
  if (data == nullptr) throw std::bad_alloc();
  return data;
}
void operator delete(void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }
void operator delete(void* data, std::align_val_t) noexcept { std::free(data); }
void operator delete(void* data, size_t, std::align_val_t) noexcept { std::free(data); }
#endif

namespace palu {
namespace {

using testing::Answer;
using testing::ReadAll;

constexpr int kSequences = 4;
constexpr int kPrompt = 20;
constexpr int kTokens = 126;
// From here on every list has room for what this many steps more put into it: contexts of 8 blocks
// or more, mailboxes of more than 64 tokens and fewer than 128.
constexpr int kWarmSteps = 75;
constexpr int kSteps = 48;

// The model, and what every step allocated.
class CountingRunner : public StepRunner {
 public:
  struct Step {
    int64_t begin, end;
    bool decodes;
  };

  explicit CountingRunner(StepRunner* inner) : inner_(inner) { steps.reserve(4 * kTokens); }
  void EnterThread() override { inner_->EnterThread(); }
  StepResult Run(const StepBatch& batch) override {
    if (steps.empty()) entered.count_down();
    submitted.wait();
    const int64_t begin = allocations;
    StepResult result = inner_->Run(batch);
    steps.push_back({begin, allocations, batch.num_tokens() == kSequences});
    return result;
  }
  PhaseTimes last_times() const override { return inner_->last_times(); }

  // The first step has the first request and waits for the others, the second has them all: which
  // lists grow when does not depend on the machine.
  std::latch entered{1}, submitted{1};
  std::vector<Step> steps;

 private:
  StepRunner* const inner_;
};

struct Setting {
  const char* name;
  const char* format;   // of the cache
  const char* weights;  // of the bundled model, or null: a dummy of low rank with experts
};

void PrintTo(const Setting& setting, std::ostream* out) { *out << setting.name; }

class StepAllocations : public ::testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
#ifndef PALU_COUNTS_ALLOCATIONS
    GTEST_SKIP() << "a sanitizer has operator new";
#endif
    counts = false;
  }
  void TearDown() override { counts = true; }

  // All that a request may ask of the sampler, in four.
  static std::vector<Request> Requests() {
    std::vector<Request> requests(kSequences);
    for (int i = 0; i < kSequences; ++i) {
      Request& request = requests[static_cast<size_t>(i)];
      for (int t = 0; t < kPrompt; ++t) request.prompt.push_back(10 + 7 * i + t);
      request.sampling.max_tokens = kTokens;
      request.sampling.ignore_eos = true;
      request.sampling.seed = i;
    }
    requests[0].sampling.temperature = 0;
    requests[1].sampling.top_p = 0.9f;
    requests[2].sampling.top_k = 40;
    requests[2].sampling.min_p = 0.05f;
    requests[3].sampling.repetition_penalty = 1.1f;
    requests[3].sampling.logit_bias = {{5, 1.0f}};
    requests[3].sampling.stop_token_ids = {3};
    requests[3].sampling.min_tokens = kTokens;
    requests[3].sampling.allowed_token_ids = {4, 5, 6, 7, 8, 9};
    return requests;
  }

  void Run(bool prefix_caching, const std::vector<Request>& requests, bool overlap = false) {
    EngineOptions options;
    options.device = "cpu";
    options.cpu_threads = 2;
    options.prefix_caching = prefix_caching;
    options.overlap = overlap;
    options.max_sequences = kSequences;
    CacheOptions cache;
    cache.format = GetParam().format;
    cache.memory_bytes = 16 << 20;
    ModelOptions model;
    model.max_context_tokens = 256;
    std::unique_ptr<ModelRunner> loaded;
    if (GetParam().weights != nullptr) {
      model.path = testing::SourceDir() + "/models/classics-14m";
      model.weights = GetParam().weights;
      loaded = ModelRunner::Load(model, options, cache);
    } else {
      const std::string path = testing::SourceDir() + "/tests/golden/zoo/qwen3-moe/config.json";
      const DummyModel dummy{"dummy", ReadFile(path), {1, 2, 8, 24}};
      loaded = ModelRunner::LoadDummy(dummy, model, options, cache);
    }
    CountingRunner runner(loaded.get());
    Engine engine(options, loaded->limits(), &runner);
    std::vector<RequestHandle> handles;
    const auto notified = std::make_shared<std::atomic<int>>(0);
    for (const Request& request : requests) {
      handles.push_back(std::move(*engine.Submit(request)));
      handles.back().stream().SetNotifier([notified, name = std::string(40, 'x')] { ++*notified; });
      if (handles.size() == 1) runner.entered.wait();
    }
    runner.submitted.count_down();
    // Nothing is read until the end: what the mailboxes hold is reserved by then.
    while (!engine.idle()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    for (RequestHandle& handle : handles) EXPECT_TRUE(ReadAll(handle).status.ok());
    EXPECT_EQ(*notified, kSequences);
    steps_ = runner.steps;
    ASSERT_GT(steps_.size(), static_cast<size_t>(kWarmSteps + kSteps + 1));
  }

  // Allocations of a warm step, within the runner and from its end to the next one; without overlap
  // nobody else is at work then.
  void Expect(int64_t within, int64_t between) const {
    for (int i = kWarmSteps; i < kWarmSteps + kSteps; ++i) {
      const CountingRunner::Step& step = steps_[static_cast<size_t>(i)];
      ASSERT_TRUE(step.decodes && steps_[static_cast<size_t>(i) + 1].decodes) << i;
      ASSERT_EQ(step.end - step.begin, within) << "step " << i;
      ASSERT_EQ(steps_[static_cast<size_t>(i) + 1].begin - step.end, between) << "step " << i;
    }
  }

  std::vector<CountingRunner::Step> steps_;
};

TEST_P(StepAllocations, OnlyWhatLeavesWithTheStep) {
  Run(false, Requests());
  // The runner's list of tokens, and a list of one token for each stream.
  Expect(1, kSequences);
}

TEST_P(StepAllocations, LogprobsAreOneListEach) {
  std::vector<Request> requests = Requests();
  for (Request& request : requests) request.sampling.num_logprobs = 5;
  Run(false, requests);
  Expect(1 + kSequences, kSequences);
}

// A block that is full becomes an entry of the prefix cache, which is made then.
TEST_P(StepAllocations, PrefixCacheMakesAnEntryOfAFullBlock) {
  constexpr int kBlockTokens = 16, kPerEntry = 4;
  Run(true, Requests());
  const auto begin = static_cast<size_t>(kWarmSteps), end = begin + kSteps;
  int64_t within = 0;
  for (size_t i = begin; i < end; ++i) within += steps_[i].end - steps_[i].begin;
  EXPECT_EQ(within, kSteps);
  const int64_t between = steps_[end].begin - steps_[begin].begin - within;
  const int64_t lists = kSteps * kSequences, entries = kSteps / kBlockTokens * kSequences;
  EXPECT_GE(between, lists + kPerEntry * entries);
  EXPECT_LE(between, lists + kPerEntry * entries + 4) << "hash tables may have grown";
}

// The engine thread and the runner's side by side; what belongs to which step is not to be told.
TEST_P(StepAllocations, TwoThreadsAllocateNoMore) {
  Run(false, Requests(), /*overlap=*/true);
  constexpr int64_t kPerStep = 1 + kSequences;
  const int64_t found = steps_[kWarmSteps + kSteps].begin - steps_[kWarmSteps].begin;
  EXPECT_NEAR(static_cast<double>(found), kSteps * kPerStep, 2 * kPerStep);
}

INSTANTIATE_TEST_SUITE_P(Models, StepAllocations,
                         ::testing::Values(Setting{"dense", "bf16", "auto"},
                                           Setting{"quantized", "int4", "int8"},
                                           Setting{"factored", "int4", nullptr}),
                         [](const auto& setting) { return std::string(setting.param.name); });

// What is counted is what every thread asks of operator new.
TEST(AllocationCount, SeesOtherThreads) {
#ifndef PALU_COUNTS_ALLOCATIONS
  GTEST_SKIP() << "a sanitizer has operator new";
#endif
  constexpr int kCalls = 10;
  const int64_t before = allocations;
  std::thread([] {
    for (int i = 0; i < kCalls; ++i) {
      // Called by name and written to, or the compiler leaves it out.
      void* data = ::operator new(8);
      *static_cast<volatile char*>(data) = 1;
      ::operator delete(data);
    }
  }).join();
  EXPECT_GE(allocations - before, kCalls);
}

}  // namespace
}  // namespace palu
