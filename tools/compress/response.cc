#include "tools/compress/response.h"

#include <algorithm>
#include <cmath>

namespace palu {
namespace {

// Divergences below this are rounding: their ratio says nothing of other cuts.
constexpr double kLeast = 1e-7;

}  // namespace

void ResponseCurve::Add(double predicted, double measured) {
  if (!(predicted > kLeast)) return;
  const Point point{std::log(predicted), std::log(std::max(measured, kLeast) / predicted)};
  const auto after = std::find_if(points_.begin(), points_.end(), [&](const Point& p) {
    return p.log_predicted >= point.log_predicted;
  });
  if (after != points_.end() && after->log_predicted == point.log_predicted) {
    *after = point;
  } else {
    points_.insert(after, point);
  }
}

double ResponseCurve::operator()(double predicted) const {
  if (!(predicted > kLeast)) return std::max(predicted, 0.0);
  if (points_.empty()) return predicted;
  const double at = std::log(predicted);
  const auto after = std::find_if(points_.begin(), points_.end(),
                                  [&](const Point& p) { return p.log_predicted >= at; });
  double log_factor = 0;
  if (after == points_.begin()) {
    log_factor = after->log_factor;
  } else if (after == points_.end()) {
    log_factor = points_.back().log_factor;
  } else {
    const Point& before = *(after - 1);
    const double share =
        (at - before.log_predicted) / (after->log_predicted - before.log_predicted);
    log_factor = before.log_factor + share * (after->log_factor - before.log_factor);
  }
  return predicted * std::exp(log_factor);
}

}  // namespace palu
