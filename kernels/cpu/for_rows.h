// Splits a loop over rows among threads when it is worth it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/parallel_for.h"

namespace palu::cpu {

// Calls fn(begin, end) over [0, rows); work_per_row counts elements touched.
template <typename Fn>
void ForRows(ThreadPool& pool, int64_t rows, int64_t work_per_row, Fn&& fn) {
  constexpr int64_t kWorkPerTask = 8192;
  const int64_t work = rows * work_per_row;
  const int64_t wanted = std::clamp<int64_t>(work / kWorkPerTask, 1, 4 * pool.size());
  const int64_t chunk = (rows + wanted - 1) / wanted;
  if (chunk >= rows) {
    if (rows > 0) fn(int64_t{0}, rows);
    return;
  }
  pool.Run((rows + chunk - 1) / chunk,
           [&](int64_t task, int) { fn(task * chunk, std::min(rows, (task + 1) * chunk)); });
}

}  // namespace palu::cpu
