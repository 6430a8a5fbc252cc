// The backends that kernel tests run on, and traffic to and from their memory. Tests never read
// device pointers: all goes through copies, in the backend's activation dtype.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace palu {

// A backend under test.
struct BackendCase {
  std::string name;  // for test names: letters, digits, underscores
  BackendOptions options;
};

// All that this machine and build can run.
std::vector<BackendCase> AvailableBackends();

inline void PrintTo(const BackendCase& c, std::ostream* os) { *os << c.name; }
inline std::string CaseName(const testing::TestParamInfo<BackendCase>& info) {
  return info.param.name;
}

// What CreateBackend says against the options; "no error" if nothing.
std::string CreationError(const BackendOptions& options);

// Limits that cover every case of these tests.
StepLimits TestLimits();

// Reproducible normal deviates.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  std::vector<double> Normal(size_t count, double deviation = 1.0);
  int Integer(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }
  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
};

// Owns arrays on a backend.
class DeviceArrays {
 public:
  explicit DeviceArrays(Backend* backend) : backend_(backend) {}
  Backend* backend() const { return backend_; }

  using Shape = std::initializer_list<int64_t>;
  // Rounds to dtype and uploads.
  Tensor Put(DType dtype, const std::vector<double>& values, Shape shape);
  Tensor PutActivations(const std::vector<double>& values, Shape shape) {
    return Put(backend_->activation_dtype(), values, shape);
  }
  Tensor PutInts(const std::vector<int32_t>& values, Shape shape);
  Tensor PutInts64(const std::vector<int64_t>& values, Shape shape);
  Tensor PutBytes(const std::vector<uint8_t>& bytes);
  // Activations that nothing has written: NaN.
  Tensor NewActivations(Shape shape);
  Tensor NewFloats(Shape shape);
  Tensor NewInts(Shape shape);

  // Of contiguous tensors.
  std::vector<double> Get(const Tensor& tensor) const;
  std::vector<int32_t> GetInts(const Tensor& tensor) const;
  std::vector<uint8_t> GetBytes(const Tensor& tensor) const;

 private:
  Tensor Upload(const void* data, size_t bytes, DType dtype, Shape shape);

  Backend* backend_;
  std::vector<Buffer> buffers_;
};

// As the activations of this backend hold them.
std::vector<double> AsActivations(const Backend& backend, const std::vector<double>& values);

// Equal NaN maps; every element within tolerance * (|want| + rms of want); cosine near 1.
void ExpectClose(const std::vector<double>& got, const std::vector<double>& want, double tolerance);

// Relative tolerance of sums in f32, or of results rounded to the activation dtype.
double Tolerance(const Backend& backend);

class KernelTest : public testing::TestWithParam<BackendCase> {
 protected:
  KernelTest() : backend_(CreateBackend(GetParam().options)), arrays_(backend_.get()) {
    backend_->Reserve(TestLimits());
  }

  // The same device with another number of CPU threads.
  std::unique_ptr<Backend> WithThreads(int threads) const;

  std::unique_ptr<Backend> backend_;
  DeviceArrays arrays_;
};

}  // namespace palu
