#include "tools/compress/factor_store.h"

#include "tools/compress/blas.h"

namespace palu {
namespace {

constexpr int kBlockTokens = 16;

// Metric of the outputs of one group: [width, width].
MatrixD OutputMetric(const F32LayerWeights& w, const ModelConfig& config,
                     const LayerStatistics& statistics, Weighting weighting, bool key, int first,
                     int width) {
  if (weighting == Weighting::kPalu) return MatrixD::Identity(width, width);
  if (weighting == Weighting::kKfac) {
    return (key ? statistics.key_gradient : statistics.value_gradient)
        .block(first, first, width, width);
  }
  if (key) return statistics.query_energy.segment(first, width).asDiagonal();
  MatrixD metric = MatrixD::Zero(width, width);
  const int d = config.head_dim;
  const int shared = config.num_heads / config.num_kv_heads;
  for (int head = first / d; head < (first + width) / d; ++head) {
    for (int q = head * shared; q < (head + 1) * shared; ++q) {
      const MatrixD o = w.o.middleCols(Eigen::Index{q} * d, d).cast<double>();
      metric.block(head * d - first, head * d - first, d, d) += o.transpose() * o;
    }
  }
  return metric;
}

MatrixF RoundF16(const MatrixD& m) { return m.cast<float>().cast<Eigen::half>().cast<float>(); }

}  // namespace

double BytesPerToken(const CompressionPlan& plan) {
  return LatentLayout(plan, kBlockTokens).bytes_per_token();
}

double UncompressedBytesPerToken(const ModelConfig& config) {
  return 2.0 * 2.0 * config.num_layers * config.num_kv_heads * config.head_dim;
}

FactorStore FactorStore::Build(F32Model* model, const Statistics& statistics,
                               const Options& options, const CalibrationProgress& progress) {
  const ModelConfig& config = model->config();
  FactorStore store;
  store.seed_ = options.seed;
  store.layers_.resize(config.num_layers);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const std::string where = "layer " + std::to_string(layer);
    const LayerStatistics& s = statistics.layers[layer];
    const Roots input = PsdRoots(s.input, options.input_damping, where + " input covariance");
    const F32LayerWeights& w = model->Layer(layer);
    for (const bool key : {true, false}) {
      ProjectionFactors& factors = key ? store.layers_[layer].key : store.layers_[layer].value;
      factors.heads_per_group = key ? options.key_heads_per_group : options.value_heads_per_group;
      const int width = factors.heads_per_group * config.head_dim;
      const std::string name = where + (key ? " key" : " value");
      for (int first = 0; first < config.num_kv_heads * config.head_dim; first += width) {
        const MatrixD metric = OutputMetric(w, config, s, options.weighting, key, first, width);
        const Roots output = PsdRoots(metric, options.output_damping, name + " output covariance");
        const MatrixD rows = (key ? w.k : w.v).middleRows(first, width).cast<double>();
        factors.groups.push_back(Decompose(rows, output, input, name));
      }
    }
    if (progress) progress(layer + 1, config.num_layers);
  }
  return store;
}

FactorStore::Stored FactorStore::Cut(int layer, bool key, int group, int rank,
                                     LatentFormat format) const {
  const Factors& factors = Of(layer, key).groups[group];
  MatrixD up = factors.up.leftCols(rank), down = factors.down.topRows(rank);
  if (IsQuantized(format)) {
    const MatrixD rotation = SpreadingRotation(rank, seed_);
    down = Multiply(rotation, down);
    up = Multiply(up, rotation.transpose());
  }
  return {RoundF16(up), RoundF16(down)};
}

ProjectionSimulation FactorStore::Simulate(int layer, bool key, const ProjectionSpec& spec,
                                           int head_dim) const {
  ProjectionSimulation simulation;
  simulation.format = spec.format;
  if (spec.dense) {
    simulation.dense_width = spec.heads_per_group * head_dim;
    simulation.hadamard = spec.hadamard;
    return simulation;
  }
  for (size_t g = 0; g < spec.ranks.size(); ++g) {
    Stored stored = Cut(layer, key, static_cast<int>(g), spec.ranks[g], spec.format);
    simulation.up.push_back(std::move(stored.up));
    simulation.down.push_back(std::move(stored.down));
  }
  return simulation;
}

}  // namespace palu
