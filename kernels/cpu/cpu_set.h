// Which CPUs and NUMA nodes there are for this process, and binding threads and memory to them.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace palu::cpu {

// Cores that this process may use: affinity mask and cgroup CPU quota.
int UsableCores();

// "0-3,8" -> 0, 1, 2, 3, 8. Throws std::runtime_error saying what is wrong with the list.
std::vector<int> ParseCpuList(const std::string& text);

// The CPUs of a list, all of which this process may use. Throws std::runtime_error.
std::vector<int> UsableCpus(const std::string& list);

// Binds the calling thread; one that the system refuses to bind stays where it is.
void BindThread(int cpu);

// NUMA nodes with memory; at least one.
std::vector<int> NumaNodes();

// Spreads the pages of memory that nothing was written to yet over nodes; false if the system
// refuses.
bool Interleave(void* data, size_t bytes, const std::vector<int>& nodes);

}  // namespace palu::cpu
