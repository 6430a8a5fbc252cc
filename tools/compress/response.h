// How the measured divergence of a projection depends on the predicted one.
#pragma once

#include <vector>

#include "tools/compress/predict.h"

namespace palu {

// The prediction is to second order and takes K-FAC's independence for granted, so its scale is off
// by a factor that differs between projections and shrinks for large cuts. This curve of factors,
// interpolated over the logarithm of the prediction, is learned from measurements. Value type.
class ResponseCurve {
 public:
  void Add(double predicted, double measured);
  // predicted >= 0; beyond the measured points the nearest one's factor holds.
  double operator()(double predicted) const;
  struct Point {
    double log_predicted, log_factor;
  };
  const std::vector<Point>& points() const { return points_; }

 private:
  std::vector<Point> points_;  // ascending
};

// Of one projection. Cutting and coding add up.
struct Response {
  ResponseCurve cut, coding, dense_coding;

  double operator()(const PredictedLoss& predicted) const {
    return cut(predicted.cut) + coding(predicted.coding) + dense_coding(predicted.dense_coding);
  }
};

}  // namespace palu
