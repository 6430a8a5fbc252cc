#include "tests/kernels/test_backend.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "tests/kernels/reference/float_formats.h"

namespace palu {

std::vector<BackendCase> AvailableBackends() {
  std::vector<BackendCase> cases;
  for (const char* isa : {"portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16"}) {
    BackendOptions options;
    options.device = "cpu";
    options.cpu_isa = isa;
    options.cpu_threads = 2;
    try {
      CreateBackend(options);
    } catch (const std::runtime_error&) {
      continue;
    }
    cases.push_back({std::string("cpu_") + isa, options});
  }
  for (const DType activations : {DType::kF32, DType::kBF16}) {
    BackendOptions options;
    options.device = "cuda:0";
    options.cuda_activations = activations;
    try {
      CreateBackend(options);
    } catch (const std::runtime_error&) {
      continue;
    }
    cases.push_back({std::string("cuda_") + Name(activations), options});
  }
  return cases;
}

std::string CreationError(const BackendOptions& options) {
  try {
    CreateBackend(options);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "no error";
}

StepLimits TestLimits() {
  StepLimits limits;
  limits.max_tokens = 1024;
  limits.max_sequences = 64;
  limits.max_context = 1 << 17;
  limits.max_q_heads = 32;
  limits.max_kv_heads = 16;
  limits.max_head_dim = 256;
  limits.max_rank = 1024;
  limits.max_row_numbers = 2048;
  limits.max_intermediate = 1024;
  limits.max_experts = 16;
  limits.hidden_size = 1024;
  limits.vocab_size = 1 << 15;
  return limits;
}

std::vector<double> Random::Normal(size_t count, double deviation) {
  std::normal_distribution<double> distribution(0.0, deviation);
  std::vector<double> values(count);
  for (double& value : values) value = distribution(engine_);
  return values;
}

Tensor DeviceArrays::Upload(const void* data, size_t bytes, DType dtype, Shape shape) {
  buffers_.push_back(backend_->Allocate(bytes));
  backend_->CopyToDevice(buffers_.back().data(), data, bytes);
  return Tensor(buffers_.back().data(), dtype, shape);
}

Tensor DeviceArrays::Put(DType dtype, const std::vector<double>& values, Shape shape) {
  if (dtype == DType::kF32) {
    const std::vector<float> floats(values.begin(), values.end());
    return Upload(floats.data(), floats.size() * sizeof(float), dtype, shape);
  }
  std::vector<uint16_t> halves(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    halves[i] =
        dtype == DType::kBF16 ? reference::BF16Bits(values[i]) : reference::F16Bits(values[i]);
  }
  return Upload(halves.data(), halves.size() * sizeof(uint16_t), dtype, shape);
}

Tensor DeviceArrays::PutInts(const std::vector<int32_t>& values, Shape shape) {
  return Upload(values.data(), values.size() * sizeof(int32_t), DType::kI32, shape);
}

Tensor DeviceArrays::PutInts64(const std::vector<int64_t>& values, Shape shape) {
  return Upload(values.data(), values.size() * sizeof(int64_t), DType::kI64, shape);
}

Tensor DeviceArrays::PutBytes(const std::vector<uint8_t>& bytes) {
  return Upload(bytes.data(), bytes.size(), DType::kU8, {static_cast<int64_t>(bytes.size())});
}

Tensor DeviceArrays::NewActivations(Shape shape) {
  const Tensor view(nullptr, backend_->activation_dtype(), shape);
  const std::vector<uint8_t> poison(view.num_elements() * SizeOf(view.dtype), 0xff);
  return Upload(poison.data(), poison.size(), view.dtype, shape);
}

Tensor DeviceArrays::NewFloats(Shape shape) {
  const Tensor view(nullptr, DType::kF32, shape);
  const std::vector<uint8_t> poison(view.num_elements() * sizeof(float), 0xff);
  return Upload(poison.data(), poison.size(), DType::kF32, shape);
}

Tensor DeviceArrays::NewInts(Shape shape) {
  const Tensor view(nullptr, DType::kI32, shape);
  return PutInts(std::vector<int32_t>(view.num_elements(), -12345), shape);
}

std::vector<uint8_t> DeviceArrays::GetBytes(const Tensor& tensor) const {
  std::vector<uint8_t> bytes(tensor.num_elements() * SizeOf(tensor.dtype));
  backend_->CopyToHost(bytes.data(), tensor.data, bytes.size());
  backend_->Synchronize();
  return bytes;
}

std::vector<double> DeviceArrays::Get(const Tensor& tensor) const {
  const std::vector<uint8_t> bytes = GetBytes(tensor);
  std::vector<double> values(tensor.num_elements());
  for (size_t i = 0; i < values.size(); ++i) {
    if (tensor.dtype == DType::kF32) {
      float value;
      std::memcpy(&value, &bytes[4 * i], 4);
      values[i] = value;
    } else {
      uint16_t bits;
      std::memcpy(&bits, &bytes[2 * i], 2);
      values[i] =
          tensor.dtype == DType::kBF16 ? reference::BF16Value(bits) : reference::F16Value(bits);
    }
  }
  return values;
}

std::vector<int32_t> DeviceArrays::GetInts(const Tensor& tensor) const {
  const std::vector<uint8_t> bytes = GetBytes(tensor);
  std::vector<int32_t> values(tensor.num_elements());
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::vector<double> AsActivations(const Backend& backend, const std::vector<double>& values) {
  return reference::Rounded(backend.activation_dtype(), values);
}

double Tolerance(const Backend& backend) {
  if (backend.isa() == "avx512_bf16") return 2e-2;
  switch (backend.activation_dtype()) {
    case DType::kF32:
      return 2e-5;
    case DType::kF16:
      return 4e-3;
    default:
      return 2e-2;
  }
}

void ExpectClose(const std::vector<double>& got, const std::vector<double>& want,
                 double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  double squares = 0, got_squares = 0, product = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_EQ(std::isnan(got[i]), std::isnan(want[i])) << "at " << i << ": " << got[i];
    if (std::isnan(want[i])) continue;
    squares += want[i] * want[i];
    got_squares += got[i] * got[i];
    product += got[i] * want[i];
  }
  const double rms = std::sqrt(squares / static_cast<double>(std::max<size_t>(want.size(), 1)));
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isnan(want[i])) continue;
    ASSERT_LE(std::fabs(got[i] - want[i]), tolerance * (std::fabs(want[i]) + rms))
        << "at " << i << " of " << want.size() << ": got " << got[i] << ", want " << want[i];
  }
  EXPECT_GE(product, (1 - tolerance) * std::sqrt(squares * got_squares));
}

std::unique_ptr<Backend> KernelTest::WithThreads(int threads) const {
  BackendOptions options = GetParam().options;
  options.cpu_threads = threads;
  std::unique_ptr<Backend> backend = CreateBackend(options);
  backend->Reserve(TestLimits());
  return backend;
}

}  // namespace palu
