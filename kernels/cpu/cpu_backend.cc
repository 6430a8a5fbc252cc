#include "kernels/cpu/cpu_backend.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <stdexcept>
#include <utility>

#include "kernels/cpu/cpu_set.h"
#include "kernels/cpu/packed_up.h"
#include "kernels/cpu/quant_weight.h"

namespace palu::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// A number of bytes in a one-number file such as memory.max of a cgroup; 0 if there is none.
size_t ReadNumber(const char* path) {
  std::ifstream file(path);
  size_t value = 0;
  return file >> value ? value : 0;
}

size_t MemAvailable() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  size_t kib = 0;
  while (file >> key >> kib) {
    if (key == "MemAvailable:") return kib << 10;
    file.ignore(64, '\n');
  }
  return 0;
}

bool Runs(const KernelTable* kernels) {
  if (kernels == nullptr) return false;
#if defined(__x86_64__)
  const bool bf16 = kernels == Avx512Bf16Kernels(), vnni = bf16 || kernels == Avx512VnniKernels();
  if (bf16 && !__builtin_cpu_supports("avx512bf16")) return false;
  if (vnni && !__builtin_cpu_supports("avx512vnni")) return false;
  if (vnni || kernels == Avx512Kernels()) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  }
  // Every processor with AVX2 has F16C, which some compilers cannot ask for.
  if (kernels == Avx2Kernels()) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  }
#endif
  return true;
}

const KernelTable* ChooseKernels(const std::string& isa) {
  std::string available;
  // The last one rounds activations to bf16, so it is not chosen unasked.
  for (const KernelTable* kernels : {Avx512VnniKernels(), Avx512Kernels(), Avx2Kernels(),
                                     PortableKernels(), Avx512Bf16Kernels()}) {
    if (!Runs(kernels)) continue;
    if (isa == "auto" || isa == kernels->name) return kernels;
    available += std::string(", ") + kernels->name;
  }
  throw std::runtime_error("cpu_isa: \"" + isa + "\" is not available here; available: auto" +
                           available);
}

std::vector<int> AffinityOf(const BackendOptions& options) {
  if (options.cpu_affinity.empty()) return {};
  try {
    return UsableCpus(options.cpu_affinity);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(std::string("cpu_affinity: ") + error.what());
  }
}

std::vector<int> NodesOf(const BackendOptions& options) {
  if (options.cpu_numa == "default") return {};
  if (options.cpu_numa != "interleave") {
    throw std::runtime_error("cpu_numa: found \"" + options.cpu_numa +
                             "\", expected default or interleave");
  }
  const std::vector<int> nodes = NumaNodes();
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* probe = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (probe == MAP_FAILED) throw std::bad_alloc();
  const bool allowed = Interleave(probe, page, nodes);
  munmap(probe, page);
  if (!allowed) {
    throw std::runtime_error("cpu_numa: interleave: the system refuses (mbind)");
  }
  return nodes;
}

}  // namespace

CpuBackend::CpuBackend(const KernelTable* kernels, int threads, std::vector<int> cpus,
                       std::vector<int> nodes)
    : kernels_(kernels), pool_(threads, std::move(cpus)), nodes_(std::move(nodes)) {}

Buffer CpuBackend::Allocate(size_t bytes) {
  const size_t alignment = bytes >= kHugePage ? kHugePage : 64;
  void* data = nullptr;
  if (posix_memalign(&data, alignment, std::max<size_t>(bytes, 1)) != 0) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (alignment == kHugePage) madvise(data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  // Smaller ones share their pages with others.
  if (alignment == kHugePage && !nodes_.empty()) Interleave(data, bytes, nodes_);
  return Buffer(this, data, bytes);
}

void CpuBackend::Free(void* data, size_t bytes) { std::free(data); }

size_t CpuBackend::FreeBytes() const {
  const size_t available = MemAvailable();
  const size_t limit = ReadNumber("/sys/fs/cgroup/memory.max");
  if (limit == 0) return available;
  const size_t used = ReadNumber("/sys/fs/cgroup/memory.current");
  return std::min(available, limit > used ? limit - used : 0);
}

size_t CpuBackend::TotalBytes() const {
  const size_t total = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  const size_t limit = ReadNumber("/sys/fs/cgroup/memory.max");
  return limit == 0 ? total : std::min(total, limit);
}

void CpuBackend::CopyToDevice(void* dst, const void* src, size_t bytes) {
  if (bytes > 0) std::memcpy(dst, src, bytes);
}

void CpuBackend::CopyToHost(void* dst, const void* src, size_t bytes) {
  if (bytes > 0) std::memcpy(dst, src, bytes);
}

void CpuBackend::CopyOnDevice(void* dst, const void* src, size_t bytes) {
  if (bytes > 0) std::memmove(dst, src, bytes);
}

size_t CpuBackend::Reserve(const StepLimits& limits) {
  return scratch_.Reserve(limits, pool_.size());
}

Buffer CpuBackend::PackUp(const Tensor& up, LatentFormat format, int head_dim, int rotary_dim) {
  // Latents of 8 bits are about as fine as the rounded factor would be.
  if (Bits(format) > 4) return Buffer();
  Buffer packed = Allocate(PackedUp::Bytes(up.dim(0), up.dim(1)));
  PackedUp::At(packed.data(), up.dim(0), up.dim(1)).Fill(*kernels_, up, head_dim, rotary_dim);
  return packed;
}

Buffer CpuBackend::PackWeight(const Tensor& weight, WeightFormat format) {
  const int64_t cols = weight.dim(0), depth = weight.dim(1);
  if (format == WeightFormat::kStored || !FitsGroups(depth)) return Buffer();
  Buffer packed = Allocate(static_cast<size_t>(GroupedWeightBytes(format, cols, depth)));
  QuantWeight::At(packed.data(), format, cols, depth).Fill(*kernels_, &pool_, weight);
  return packed;
}

std::unique_ptr<Backend> CreateCpuBackend(const BackendOptions& options) {
  constexpr int kMaxThreads = 1024;
  const KernelTable* kernels = ChooseKernels(options.cpu_isa);
  if (options.cpu_threads < 0 || options.cpu_threads > kMaxThreads) {
    throw std::runtime_error("cpu_threads: " + std::to_string(options.cpu_threads) +
                             " is out of range; expected 0 (all cores) to 1024");
  }
  const std::vector<int> cpus = AffinityOf(options);
  const int cores = cpus.empty() ? UsableCores() : static_cast<int>(cpus.size());
  const int threads = options.cpu_threads == 0 ? cores : options.cpu_threads;
  if (!cpus.empty() && threads > cores) {
    throw std::runtime_error("cpu_threads: found " + std::to_string(threads) +
                             ", expected at most " + std::to_string(cores) +
                             ", the CPUs of cpu_affinity");
  }
  return std::make_unique<CpuBackend>(kernels, threads, cpus, NodesOf(options));
}

}  // namespace palu::cpu
