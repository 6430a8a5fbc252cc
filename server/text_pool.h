// Threads for JSON, tokenizing and detokenizing.
#pragma once

#include <functional>
#include <memory>

namespace palu {

// Fixed number of threads, unbounded queue (the engine's queue and the connection limit bound what
// is in it). Thread-safe.
class TextPool {
 public:
  explicit TextPool(int threads);  // <= 0: as many as cores, at most 4
  ~TextPool();                     // Join

  void Post(std::function<void()> work);  // must not throw; after Join it is never run
  // Runs what is queued, then ends the threads.
  void Join();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace palu
