// Builds metric families of prometheus-cpp from plain numbers.
#pragma once

#include <prometheus/metric_family.h>

#include <string>
#include <utility>
#include <vector>

#include "engine/metrics.h"

namespace palu {

// Collects families; every series carries the common labels first. Used by one thread at a time.
class MetricsFamilies {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;

  explicit MetricsFamilies(Labels common) : common_(std::move(common)) {}

  // Series with the same name follow each other directly; help is taken from the first.
  void Gauge(const std::string& name, const std::string& help, double value, Labels labels = {});
  void Counter(const std::string& name, const std::string& help, double value, Labels labels = {});
  void Histogram(const std::string& name, const std::string& help, const HistogramSnapshot& value,
                 Labels labels = {});

  const std::vector<prometheus::MetricFamily>& families() const { return families_; }

 private:
  prometheus::ClientMetric& Add(const std::string& name, const std::string& help,
                                prometheus::MetricType type, Labels labels);

  const Labels common_;
  std::vector<prometheus::MetricFamily> families_;
};

}  // namespace palu
