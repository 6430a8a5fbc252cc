#include "kernels/cpu/cpu_set.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <climits>
#include <fstream>
#include <set>
#include <stdexcept>
#include <string_view>
#include <thread>

namespace palu::cpu {
namespace {

constexpr int kMaxCpu = CPU_SETSIZE - 1;

int CgroupCores() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return 0;
  return std::max(1, static_cast<int>(std::stod(quota) / period + 0.5));
}

// The number at the start of text, which is cut off; -1 if there is none.
int TakeNumber(std::string_view* text) {
  int value = -1;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || value < 0) return -1;
  text->remove_prefix(static_cast<size_t>(end - text->data()));
  return value;
}

}  // namespace

int UsableCores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = CPU_COUNT(&set);
  const int quota = CgroupCores();
  if (quota > 0) cores = std::min(cores, quota);
  return std::max(cores, 1);
}

std::vector<int> ParseCpuList(const std::string& text) {
  std::vector<int> cpus;
  std::set<int> seen;
  std::string_view rest = text;
  for (bool more = true; more;) {
    const int first = TakeNumber(&rest);
    int last = first;
    if (rest.starts_with('-')) {
      rest.remove_prefix(1);
      last = TakeNumber(&rest);
    }
    more = rest.starts_with(',');
    if (more) rest.remove_prefix(1);
    if (first < 0 || last < first || last > kMaxCpu || (!more && !rest.empty())) {
      throw std::runtime_error("found \"" + text + "\", expected numbers and ranges from 0 to " +
                               std::to_string(kMaxCpu) + " such as 0-3,8");
    }
    for (int cpu = first; cpu <= last; ++cpu) {
      if (!seen.insert(cpu).second) {
        throw std::runtime_error("found " + std::to_string(cpu) + " twice in \"" + text + "\"");
      }
      cpus.push_back(cpu);
    }
  }
  return cpus;
}

std::vector<int> UsableCpus(const std::string& list) {
  const std::vector<int> cpus = ParseCpuList(list);
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (const int cpu : cpus) {
    if (CPU_ISSET(cpu, &set)) continue;
    std::string usable;
    for (int i = 0; i <= kMaxCpu; ++i) {
      if (CPU_ISSET(i, &set)) usable += (usable.empty() ? "" : ",") + std::to_string(i);
    }
    throw std::runtime_error("found CPU " + std::to_string(cpu) +
                             ", expected some of those that this process may use: " + usable);
  }
  return cpus;
}

void BindThread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof(set), &set);
}

std::vector<int> NumaNodes() {
  std::ifstream file("/sys/devices/system/node/has_memory");
  std::string list;
  if (!(file >> list)) return {0};
  return ParseCpuList(list);
}

bool Interleave(void* data, size_t bytes, const std::vector<int>& nodes) {
#if defined(SYS_mbind)
  constexpr int kInterleave = 3;  // MPOL_INTERLEAVE of <linux/mempolicy.h>
  constexpr int kBits = sizeof(unsigned long) * CHAR_BIT;
  std::vector<unsigned long> mask(static_cast<size_t>(nodes.back() / kBits + 1));
  for (const int node : nodes) mask[static_cast<size_t>(node / kBits)] |= 1ul << (node % kBits);
  // The kernel reads one bit less than it is told.
  return syscall(SYS_mbind, data, bytes, kInterleave, mask.data(), mask.size() * kBits + 1, 0) == 0;
#else
  return false;
#endif
}

}  // namespace palu::cpu
