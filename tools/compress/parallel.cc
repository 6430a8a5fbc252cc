#include "tools/compress/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "tools/compress/blas.h"

namespace palu {
namespace {

class BlasThreadsGuard {
 public:
  explicit BlasThreadsGuard(int threads) : before_(BlasThreads()) { SetBlasThreads(threads); }
  ~BlasThreadsGuard() { SetBlasThreads(before_); }
  BlasThreadsGuard(const BlasThreadsGuard&) = delete;
  BlasThreadsGuard& operator=(const BlasThreadsGuard&) = delete;

 private:
  int before_;
};

}  // namespace

void ParallelFor(size_t n, const std::function<void(size_t)>& work) {
  const auto threads = static_cast<size_t>(BlasThreads());
  if (threads <= 1 || 2 * n < threads) {
    for (size_t i = 0; i < n; ++i) work(i);
    return;
  }
  const BlasThreadsGuard guard(1);
  std::atomic<size_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto run = [&] {
    try {
      for (size_t i = next++; i < n; i = next++) work(i);
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
      next = n;
    }
  };
  {
    std::vector<std::jthread> pool;
    for (size_t t = 1; t < std::min(n, threads); ++t) pool.emplace_back(run);
    run();
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace palu
