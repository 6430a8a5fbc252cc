// Counts of answered requests by (route or method, code).
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace palu {

// Thread-safe. Both labels must come from bounded sets.
class RequestCounters {
 public:
  using Counts = std::map<std::pair<std::string, std::string>, uint64_t>;

  void Add(const std::string& name, const std::string& code) {
    std::lock_guard<std::mutex> lock(mutex_);
    ++counts_[{name, code}];
  }
  Counts Snapshot() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return counts_;
  }

 private:
  mutable std::mutex mutex_;
  Counts counts_;  // guarded by mutex_
};

}  // namespace palu
