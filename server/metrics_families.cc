#include "server/metrics_families.h"

#include <limits>

namespace palu {

prometheus::ClientMetric& MetricsFamilies::Add(const std::string& name, const std::string& help,
                                               prometheus::MetricType type, Labels labels) {
  if (families_.empty() || families_.back().name != name) {
    prometheus::MetricFamily family;
    family.name = name;
    family.help = help;
    family.type = type;
    families_.push_back(std::move(family));
  }
  prometheus::ClientMetric metric;
  for (const Labels* list : {&common_, static_cast<const Labels*>(&labels)}) {
    for (const auto& [key, value] : *list) {
      prometheus::ClientMetric::Label label;
      label.name = key;
      label.value = value;
      metric.label.push_back(label);
    }
  }
  families_.back().metric.push_back(std::move(metric));
  return families_.back().metric.back();
}

void MetricsFamilies::Gauge(const std::string& name, const std::string& help, double value,
                            Labels labels) {
  Add(name, help, prometheus::MetricType::Gauge, std::move(labels)).gauge.value = value;
}

void MetricsFamilies::Counter(const std::string& name, const std::string& help, double value,
                              Labels labels) {
  Add(name, help, prometheus::MetricType::Counter, std::move(labels)).counter.value = value;
}

void MetricsFamilies::Histogram(const std::string& name, const std::string& help,
                                const HistogramSnapshot& value, Labels labels) {
  prometheus::ClientMetric& metric =
      Add(name, help, prometheus::MetricType::Histogram, std::move(labels));
  uint64_t cumulative = 0;
  for (size_t i = 0; i < value.counts.size(); ++i) {
    cumulative += value.counts[i];
    prometheus::ClientMetric::Bucket bucket;
    bucket.cumulative_count = cumulative;
    bucket.upper_bound =
        i < value.bounds.size() ? value.bounds[i] : std::numeric_limits<double>::infinity();
    metric.histogram.bucket.push_back(bucket);
  }
  metric.histogram.sample_count = value.count;
  metric.histogram.sample_sum = value.sum;
}

}  // namespace palu
