// Losses already measured, so that an interrupted search continues where it stopped.
#pragma once

#include <fstream>
#include <map>
#include <optional>
#include <string>

#include "tools/compress/evaluator.h"

namespace palu {

// One line that says everything about a plan.
std::string PlanKey(const CompressionPlan& plan);

// A text file: a fingerprint of what the losses depend on, then loss, divergence and plan
// per line. A torn
// last line (the program was killed) is dropped. Not thread-safe.
class EvaluationLog {
 public:
  EvaluationLog() = default;  // remembers, writes nothing
  // Reads path when resume is set and the fingerprint agrees; otherwise starts it anew. Throws
  // CompressError when it cannot be written.
  EvaluationLog(const std::string& path, const std::string& fingerprint, bool resume);

  std::optional<PlanLoss> Find(const CompressionPlan& plan) const;
  void Add(const CompressionPlan& plan, const PlanLoss& loss);
  size_t size() const { return losses_.size(); }

 private:
  void Read(const std::string& path, const std::string& fingerprint);

  std::map<std::string, PlanLoss> losses_;
  std::ofstream out_;
};

}  // namespace palu
