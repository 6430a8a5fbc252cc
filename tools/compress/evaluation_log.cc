#include "tools/compress/evaluation_log.h"

#include <cstdio>
#include <sstream>

namespace palu {
namespace {

void AppendSpec(const ProjectionSpec& spec, std::string* key) {
  key->append(1, spec.dense ? (spec.hadamard ? 'H' : 'D') : 'L').append(Name(spec.format));
  for (const int rank : spec.ranks) key->append(1, ',').append(std::to_string(rank));
}

std::string Line(const PlanLoss& loss, const std::string& key) {
  char numbers[96];
  std::snprintf(numbers, sizeof(numbers), "%.17g %.17g ", loss.loss, loss.kl);
  return numbers + key + "\n";
}

}  // namespace

std::string PlanKey(const CompressionPlan& plan) {
  std::string key;
  for (const LayerSpec& layer : plan) {
    AppendSpec(layer.key, &key);
    key.append(1, '/');
    AppendSpec(layer.value, &key);
    key.append(1, ';');
  }
  return key;
}

EvaluationLog::EvaluationLog(const std::string& path, const std::string& fingerprint, bool resume) {
  if (resume) Read(path, fingerprint);
  out_.open(path, std::ios::trunc);
  out_ << fingerprint << "\n";
  for (const auto& [key, loss] : losses_) out_ << Line(loss, key);
  if (!out_.flush()) throw CompressError(path + ": cannot be written");
}

void EvaluationLog::Read(const std::string& path, const std::string& fingerprint) {
  std::ifstream in(path);
  std::string line;
  if (!std::getline(in, line) || line != fingerprint) return;
  while (std::getline(in, line)) {
    if (in.eof()) break;
    std::istringstream fields(line);
    PlanLoss loss;
    std::string key;
    if (fields >> loss.loss >> loss.kl) {
      fields >> key;  // none: the uncompressed model
      losses_[key] = loss;
    }
  }
}

std::optional<PlanLoss> EvaluationLog::Find(const CompressionPlan& plan) const {
  const auto found = losses_.find(PlanKey(plan));
  if (found == losses_.end()) return std::nullopt;
  return found->second;
}

void EvaluationLog::Add(const CompressionPlan& plan, const PlanLoss& loss) {
  const std::string key = PlanKey(plan);
  losses_[key] = loss;
  if (!out_.is_open()) return;
  if (!(out_ << Line(loss, key) << std::flush)) {
    throw CompressError("evaluations: cannot be written (disk full?)");
  }
}

}  // namespace palu
