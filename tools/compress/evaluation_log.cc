#include "tools/compress/evaluation_log.h"

#include <cstdio>
#include <sstream>

namespace palu {
namespace {

void AppendSpec(const ProjectionSpec& spec, std::string* key) {
  key->append(1, spec.dense ? (spec.hadamard ? 'H' : 'D') : 'L').append(Name(spec.format));
  for (const int rank : spec.ranks) key->append(1, ',').append(std::to_string(rank));
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
  for (const auto& [key, loss] : losses_) {
    char number[64];
    std::snprintf(number, sizeof(number), "%.17g", loss);
    out_ << number << " " << key << "\n";
  }
  if (!out_.flush()) throw CompressError(path + ": cannot be written");
}

void EvaluationLog::Read(const std::string& path, const std::string& fingerprint) {
  std::ifstream in(path);
  std::string line;
  if (!std::getline(in, line) || line != fingerprint) return;
  while (std::getline(in, line)) {
    if (in.eof()) break;
    std::istringstream fields(line);
    double loss = 0;
    std::string key;
    if (fields >> loss >> key) losses_[key] = loss;
  }
}

std::optional<double> EvaluationLog::Find(const CompressionPlan& plan) const {
  const auto found = losses_.find(PlanKey(plan));
  if (found == losses_.end()) return std::nullopt;
  return found->second;
}

void EvaluationLog::Add(const CompressionPlan& plan, double loss) {
  const std::string key = PlanKey(plan);
  losses_[key] = loss;
  if (!out_.is_open()) return;
  char number[64];
  std::snprintf(number, sizeof(number), "%.17g", loss);
  out_ << number << " " << key << "\n" << std::flush;
}

}  // namespace palu
