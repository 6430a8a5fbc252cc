#include "tools/compress/factor_store.h"

#include <cstring>
#include <memory>

#include "engine/model/palu_config.h"
#include "engine/model/safetensors_writer.h"
#include "kernels/check.h"
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

std::string NameOf(int layer, bool key, int group, const char* what) {
  return std::to_string(layer) + (key ? ".key." : ".value.") + std::to_string(group) + "." + what;
}

// In the order in which Build writes.
std::vector<SafetensorsDeclaration> Declare(const ModelConfig& config,
                                            const FactorStore::Options& options) {
  std::vector<SafetensorsDeclaration> declarations;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (const bool key : {true, false}) {
      const int heads = key ? options.key_heads_per_group : options.value_heads_per_group;
      const int64_t width = int64_t{heads} * config.head_dim;
      for (int g = 0; g < config.num_kv_heads / heads; ++g) {
        declarations.push_back({NameOf(layer, key, g, "up"), "F32", {width, width}});
        declarations.push_back({NameOf(layer, key, g, "down"), "F32", {width, config.hidden_size}});
      }
    }
  }
  return declarations;
}

std::span<const std::byte> BytesOf(const MatrixF& m) {
  return std::as_bytes(std::span(m.data(), static_cast<size_t>(m.size())));
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
  std::unique_ptr<SafetensorsWriter> writer;
  if (!options.file.empty()) {
    writer = std::make_unique<SafetensorsWriter>(options.file, Declare(config, options));
  }
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const std::string where = "layer " + std::to_string(layer);
    const LayerStatistics& s = statistics.layers[layer];
    const MatrixD input =
        CholeskyFactor(s.input, options.input_damping, where + " input covariance");
    const F32LayerWeights& w = model->Layer(layer);
    for (const bool key : {true, false}) {
      ProjectionFactors& factors = key ? store.layers_[layer].key : store.layers_[layer].value;
      factors.heads_per_group = key ? options.key_heads_per_group : options.value_heads_per_group;
      factors.width = factors.heads_per_group * config.head_dim;
      const std::string name = where + (key ? " key" : " value");
      for (int g = 0; g < config.num_kv_heads / factors.heads_per_group; ++g) {
        const int first = g * factors.width;
        const MatrixD metric =
            OutputMetric(w, config, s, options.weighting, key, first, factors.width);
        const Roots output = PsdRoots(metric, options.output_damping, name + " output covariance");
        const MatrixD rows = (key ? w.k : w.v).middleRows(first, factors.width).cast<double>();
        const Factors found = Decompose(rows, output, input, name);
        factors.groups.push_back({found.loss});
        Matrices matrices{found.up.transpose().cast<float>(), found.down.cast<float>()};
        if (writer) {
          writer->Write(BytesOf(matrices.up));
          writer->Write(BytesOf(matrices.down));
        } else {
          store.in_memory_.emplace(Group{layer, key, g}, std::move(matrices));
        }
      }
    }
    if (progress) progress(layer + 1, config.num_layers);
  }
  if (writer) {
    writer->Finish();
    store.file_ = Safetensors::OpenFile(options.file);
  }
  return store;
}

FactorStore::Matrices FactorStore::Leading(const Group& group, int rank) const {
  if (!file_) {
    const Matrices& whole = in_memory_.at(group);
    return {whole.up.topRows(rank), whole.down.topRows(rank)};
  }
  const auto [layer, key, g] = group;
  const auto read = [&](const char* what) {
    const SafetensorsEntry* entry = file_->Find(NameOf(layer, key, g, what));
    PALU_CHECK(entry != nullptr && rank <= entry->shape[0]);
    MatrixF m(rank, entry->shape[1]);
    std::memcpy(m.data(), entry->data.data(), static_cast<size_t>(m.size()) * sizeof(float));
    return m;
  };
  return {read("up"), read("down")};
}

FactorStore::Stored FactorStore::Cut(int layer, bool key, int group, int rank,
                                     LatentFormat format) const {
  const Matrices leading = Leading({layer, key, group}, rank);
  MatrixD up = leading.up.transpose().cast<double>(), down = leading.down.cast<double>();
  if (RotatedByDefault(false, format)) {
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
