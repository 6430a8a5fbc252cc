// Creation, memory, steps and buffers.
#include <algorithm>
#include <stdexcept>

#include "tests/kernels/test_backend.h"

namespace palu {
namespace {

using BackendTest = KernelTest;

TEST_P(BackendTest, NamesWhatItIs) {
  EXPECT_EQ(GetParam().name.substr(0, 3), backend_->name().substr(0, 3));
  if (backend_->name() == "cpu") {
    EXPECT_EQ(backend_->isa(), GetParam().options.cpu_isa);
  }
  EXPECT_GT(backend_->TotalBytes(), size_t{1} << 28);
  EXPECT_GT(backend_->FreeBytes(), 0u);
  EXPECT_LE(backend_->FreeBytes(), backend_->TotalBytes());
}

TEST_P(BackendTest, MemoryIsAlignedAndKeepsWhatIsCopied) {
  for (const size_t bytes : {size_t{1}, size_t{63}, size_t{4096}, (size_t{2} << 20) + 5}) {
    const Buffer buffer = backend_->Allocate(bytes);
    EXPECT_EQ(buffer.bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    std::vector<uint8_t> in(bytes), out(bytes);
    for (size_t i = 0; i < bytes; ++i) in[i] = static_cast<uint8_t>(i * 7 + 1);
    backend_->CopyToDevice(buffer.data(), in.data(), bytes);
    backend_->CopyToHost(out.data(), buffer.data(), bytes);
    backend_->Synchronize();
    EXPECT_EQ(in, out);
    const Buffer copy = backend_->Allocate(bytes);
    backend_->CopyOnDevice(copy.data(), buffer.data(), bytes);
    std::fill(out.begin(), out.end(), uint8_t{0});
    backend_->CopyToHost(out.data(), copy.data(), bytes);
    backend_->Synchronize();
    EXPECT_EQ(in, out);
  }
}

TEST_P(BackendTest, AllocateThrowsWhenMemoryCannotBeHad) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "AddressSanitizer ends the process instead";
#endif
  EXPECT_THROW(backend_->Allocate(size_t{1} << 60), std::bad_alloc);
}

TEST_P(BackendTest, BuffersMove) {
  Buffer first = backend_->Allocate(100);
  void* data = first.data();
  Buffer second = std::move(first);
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(second.bytes(), 100u);
  EXPECT_FALSE(Buffer().defined());
  Buffer third = backend_->Allocate(8);
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  const Tensor view = third.View(DType::kI32, {2, 3}, 8);
  EXPECT_EQ(view.data, static_cast<char*>(data) + 8);
  EXPECT_EQ(view.num_elements(), 6);
}

TEST_P(BackendTest, RunStepRunsTheOpsEveryTime) {
  const Tensor x = arrays_.PutActivations({0, 0, 0, 0}, {2, 2});
  const Tensor y = arrays_.PutActivations({1, 2, 3, 4}, {2, 2});
  for (int i = 0; i < 3; ++i) {
    backend_->RunStep(42, [&] { backend_->Add({.x = x, .y = y}); });
  }
  EXPECT_EQ(arrays_.Get(x), (std::vector<double>{3, 6, 9, 12}));
}

TEST_P(BackendTest, ReserveReportsWhatItTook) {
  StepLimits limits = TestLimits();
  const size_t bytes = backend_->Reserve(limits);
  EXPECT_GT(bytes, 0u);
  limits.vocab_size *= 16;
  limits.max_context *= 2;
  EXPECT_GT(backend_->Reserve(limits), bytes);
}

TEST(CreateBackendTest, NamesTheOptionTheValueAndWhatThereIs) {
  BackendOptions options;
  for (const char* device : {"", "gpu", "cuda", "cuda:", "cuda:x", "cuda:-1", "cuda:999", "CPU"}) {
    options.device = device;
    const std::string error = CreationError(options);
    EXPECT_NE(error.find("device: \"" + options.device + "\""), std::string::npos) << error;
    EXPECT_NE(error.find("available: auto, cpu"), std::string::npos) << error;
  }
  options.device = "cpu";
  options.cpu_isa = "sse9";
  std::string error = CreationError(options);
  EXPECT_NE(error.find("cpu_isa: \"sse9\""), std::string::npos) << error;
  EXPECT_NE(error.find("portable"), std::string::npos) << error;
  options.cpu_isa = "auto";
  options.cpu_threads = -3;
  error = CreationError(options);
  EXPECT_NE(error.find("cpu_threads: -3"), std::string::npos) << error;
}

// Of those that compute in f32: rounding activations is never chosen unasked.
TEST(CreateBackendTest, AutoTakesTheWidestExactInstructionSet) {
  BackendOptions options;
  options.device = "cpu";
  const std::string chosen = CreateBackend(options)->isa();
  EXPECT_EQ("cpu_" + chosen, [] {
    std::string last;
    for (const BackendCase& c : AvailableBackends()) {
      if (c.options.device == "cpu" && c.name != "cpu_avx512_bf16") last = c.name;
    }
    return last;
  }());
}

INSTANTIATE_TEST_SUITE_P(Backends, BackendTest, testing::ValuesIn(AvailableBackends()), CaseName);

}  // namespace
}  // namespace palu
