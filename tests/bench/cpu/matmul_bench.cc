// x W^T by our CPU backend, OpenBLAS and oneDNN, for the matrices of the bundled model and of one
// of 1 B parameters. Peers get their weights packed ahead of time where they can.
//   OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 matmul_bench [REPETITIONS]
// One thread; prints microseconds, medians.
#include <cblas.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <random>
#include <vector>

#include "kernels/backend.h"

namespace palu {
namespace {

using dnnl::memory;

struct Shape {
  const char* name;
  int64_t outputs, depth;
  int64_t model_bytes;  // of all bf16 weights of that model, which a step streams through
};

constexpr int64_t kSmallModel = 28 << 20, kLargeModel = 512 << 20;
constexpr Shape kShapes[] = {
    {"14 M: q", 512, 384, kSmallModel},     {"14 M: gate", 1024, 384, kSmallModel},
    {"14 M: down", 384, 1024, kSmallModel}, {"14 M: lm_head", 8192, 384, kSmallModel},
    {"1 B: q", 2048, 2048, kLargeModel},    {"1 B: gate", 8192, 2048, kLargeModel},
    {"1 B: down", 2048, 8192, kLargeModel}, {"1 B: lm_head", 128256, 2048, kLargeModel},
};
constexpr int64_t kRows[] = {1, 4, 16, 128};

double CpuSeconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Processor time of a call, so that other work on the machine matters little.
double Microseconds(int repetitions, int copies, const std::function<void(int)>& run) {
  constexpr double kShortest = 0.01;  // long enough for the clock
  std::vector<double> times;
  int copy = 0;
  for (int i = 0; i < repetitions + 1; ++i) {
    int calls = 0;
    const double start = CpuSeconds();
    double seconds = 0;
    do {
      // Every copy in turn, so that weights come from where a step finds them.
      run(copy);
      copy = (copy + 1) % copies;
      ++calls;
      seconds = CpuSeconds() - start;
    } while (seconds < kShortest);
    if (i > 0) times.push_back(seconds / calls * 1e6);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Products by oneDNN with weights in the layout that it chose.
class DnnlProduct {
 public:
  DnnlProduct(memory::data_type x_type, memory::data_type weight_type, int64_t rows,
              const Shape& shape, int copies)
      : x_desc_({rows, shape.depth}, x_type, memory::format_tag::ab),
        out_desc_({rows, shape.outputs}, memory::data_type::f32, memory::format_tag::ab) {
    const memory::desc any({shape.depth, shape.outputs}, weight_type, memory::format_tag::any);
    const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(x_desc_, any, out_desc_), engine_);
    product_ = dnnl::matmul(desc);
    x_ = memory(x_desc_, engine_);
    out_ = memory(out_desc_, engine_);
    for (int i = 0; i < copies; ++i) {
      weights_.emplace_back(desc.weights_desc(), engine_);
      auto* bytes = static_cast<uint8_t*>(weights_.back().get_data_handle());
      std::fill(bytes, bytes + desc.weights_desc().get_size(), uint8_t{1});
    }
    auto* bytes = static_cast<uint8_t*>(x_.get_data_handle());
    std::fill(bytes, bytes + x_desc_.get_size(), uint8_t{1});
  }

  void Run(int copy) {
    product_.execute(stream_, {{DNNL_ARG_SRC, x_},
                               {DNNL_ARG_WEIGHTS, weights_[static_cast<size_t>(copy)]},
                               {DNNL_ARG_DST, out_}});
    stream_.wait();
  }

 private:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  memory::desc x_desc_, out_desc_;
  dnnl::matmul product_;
  memory x_, out_;
  std::vector<memory> weights_;
};

class Comparison {
 public:
  Comparison(Backend* backend, const Shape& shape, int repetitions)
      : backend_(*backend), shape_(shape), repetitions_(repetitions) {
    const int64_t bytes = 2 * shape.outputs * shape.depth;
    copies_ = static_cast<int>(std::max<int64_t>(1, shape.model_bytes / bytes));
  }

  void Run(int64_t rows) {
    const Buffer x = Floats(rows * shape_.depth), out = Floats(rows * shape_.outputs);
    std::printf("| %s | %lld |", shape_.name, static_cast<long long>(rows));
    for (const WeightFormat format :
         {WeightFormat::kStored, WeightFormat::kInt8, WeightFormat::kInt4}) {
      std::printf(" %.1f |", Ours(format, x, out, rows));
    }
    const int half = std::max(1, copies_ / 2);  // f32 numbers are twice as long
    std::vector<Buffer> weights;
    for (int i = 0; i < half; ++i) weights.push_back(Floats(shape_.outputs * shape_.depth));
    std::printf(" %.1f |", Microseconds(repetitions_, half, [&](int copy) {
                  const auto* weight =
                      static_cast<float*>(weights[static_cast<size_t>(copy)].data());
                  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(rows),
                              static_cast<int>(shape_.outputs), static_cast<int>(shape_.depth),
                              1.0f, static_cast<float*>(x.data()), static_cast<int>(shape_.depth),
                              weight, static_cast<int>(shape_.depth), 0.0f,
                              static_cast<float*>(out.data()), static_cast<int>(shape_.outputs));
                }));
    weights.clear();
    Dnnl(memory::data_type::f32, memory::data_type::f32, rows, half);
    Dnnl(memory::data_type::bf16, memory::data_type::bf16, rows, copies_);
    Dnnl(memory::data_type::u8, memory::data_type::s8, rows, 2 * copies_);
    std::printf("\n");
    std::fflush(stdout);
  }

 private:
  Buffer Floats(int64_t count) {
    Buffer buffer = backend_.Allocate(static_cast<size_t>(count) * sizeof(float));
    auto* numbers = static_cast<float*>(buffer.data());
    std::minstd_rand noise(1);
    for (int64_t i = 0; i < count; ++i) {
      numbers[i] = static_cast<float>(noise() % 1000) * 1e-3f - 0.5f;
    }
    return buffer;
  }

  double Ours(WeightFormat format, const Buffer& x, const Buffer& out, int64_t rows) {
    const int64_t count = shape_.outputs * shape_.depth;
    const bool stored = format == WeightFormat::kStored;
    const int copies = format == WeightFormat::kInt4 ? 4 * copies_ : stored ? copies_ : 2 * copies_;
    DType type = DType::kBF16;
    std::vector<Buffer> weights(1);
    weights[0] = backend_.Allocate(static_cast<size_t>(count) * 2);
    auto* halves = static_cast<uint16_t*>(weights[0].data());
    for (int64_t i = 0; i < count; ++i) halves[i] = static_cast<uint16_t>(0x3c00 + i % 251);
    if (!stored) {
      type = format == WeightFormat::kInt4 ? DType::kInt4Groups : DType::kInt8Groups;
      weights[0] = backend_.PackWeight(
          weights[0].View(DType::kBF16, {shape_.outputs, shape_.depth}), format);
    }
    for (int i = 1; i < copies; ++i) {
      weights.push_back(backend_.Allocate(weights[0].bytes()));
      backend_.CopyOnDevice(weights.back().data(), weights[0].data(), weights[0].bytes());
    }
    return Microseconds(repetitions_, copies, [&](int copy) {
      backend_.Matmul(
          {.x = x.View(DType::kF32, {rows, shape_.depth}),
           .weight = weights[static_cast<size_t>(copy)].View(type, {shape_.outputs, shape_.depth}),
           .bias = {},
           .out = out.View(DType::kF32, {rows, shape_.outputs})});
    });
  }

  void Dnnl(memory::data_type x, memory::data_type weight, int64_t rows, int copies) {
    try {
      DnnlProduct product(x, weight, rows, shape_, copies);
      std::printf(" %.1f |",
                  Microseconds(repetitions_, copies, [&](int copy) { product.Run(copy); }));
    } catch (const dnnl::error& error) {
      std::printf(" - |");
    }
  }

  Backend& backend_;
  const Shape& shape_;
  const int repetitions_;
  int copies_ = 1;
};

}  // namespace
}  // namespace palu

int main(int argc, char** argv) {
  using namespace palu;
  BackendOptions options;
  options.device = "cpu";
  options.cpu_threads = 1;
  const int repetitions = argc > 1 ? std::atoi(argv[1]) : 7;
  const std::unique_ptr<Backend> backend = CreateBackend(options);
  StepLimits limits;
  limits.max_tokens = 128;
  limits.hidden_size = 8192;
  backend->Reserve(limits);
  std::printf(
      "%s, 1 thread\n| matrix | rows | ours bf16 | int8 | int4 | OpenBLAS f32 | oneDNN f32 | "
      "bf16 | u8 s8 |\n|---|---|---|---|---|---|---|---|---|\n",
      backend->isa().c_str());
  for (const Shape& shape : kShapes) {
    Comparison comparison(backend.get(), shape, repetitions);
    for (const int64_t rows : kRows) comparison.Run(rows);
  }
  return 0;
}
