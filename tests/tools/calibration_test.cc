// Statistics against an independent autograd (tests/golden/make_calibration_golden.py) and finite
// differences.
#include "tools/compress/calibration.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/test_paths.h"
#include "tools/compress/checkpoint_model.h"
#include "tools/compress/f32_layer.h"

namespace palu {
namespace {

std::string Golden(const std::string& path) {
  return testing::SourceDir() + "/tests/golden/" + path;
}

TokenWindows GoldenWindows(const std::string& model) {
  const auto files = Safetensors::OpenFile(Golden("zoo/" + model + "/golden.safetensors"));
  const SafetensorsEntry* ids = files.Find("ids");
  TokenWindows windows(ids->shape[0], std::vector<int32_t>(ids->shape[1]));
  const auto* data = reinterpret_cast<const int32_t*>(ids->data.data());
  for (auto& window : windows) {
    std::copy_n(data, window.size(), window.begin());
    data += window.size();
  }
  return windows;
}

double RelativeError(const MatrixD& actual, const MatrixD& expected) {
  return (actual - expected).norm() / expected.norm();
}

class CalibrationGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(CalibrationGolden, MatchesIndependentAutograd) {
  const std::string name = GetParam();
  CheckpointModel model(Golden("zoo/" + name), 128, int64_t{1} << 30);
  const TokenWindows windows = GoldenWindows(name);
  const Statistics statistics = Calibrate(&model, windows, true, int64_t{1} << 20, nullptr);
  const auto golden = Safetensors::OpenFile(Golden("calibration-" + name + ".safetensors"));
  EXPECT_NEAR(statistics.loss, ReadMatrix(golden, "loss", 1, 0)(0, 0), 1e-4 * statistics.loss);
  const int hidden = model.config().hidden_size;
  const int kv = model.config().num_kv_heads * model.config().head_dim;
  for (const int layer : {0, model.config().num_layers - 1}) {
    const LayerStatistics& s = statistics.layers[layer];
    const auto expect = [&](const std::string& what, const MatrixD& actual, int rows, int cols) {
      const std::string key = std::to_string(layer) + "." + what;
      const MatrixD expected = ReadMatrix(golden, key, rows, cols).cast<double>();
      EXPECT_LT(RelativeError(actual, expected), 2e-3) << key;
    };
    expect("input", s.input, hidden, hidden);
    expect("key_gradient", s.key_gradient, kv, kv);
    expect("value_gradient", s.value_gradient, kv, kv);
    expect("key_fisher", s.key_fisher, kv, 0);
    expect("value_fisher", s.value_fisher, kv, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Zoo, CalibrationGolden,
                         ::testing::Values("llama31-gqa", "qwen2", "qwen3", "gemma3", "phi3",
                                           "mistral-swa"));

// Rank-one change of a projection through the simulated cache (full rank, float32) against
// the gradient that the backward pass gives for the projection's output.
TEST(Calibration, GradientMatchesFiniteDifferences) {
  CheckpointModel model(Golden("zoo/llama31-gqa"), 128, int64_t{1} << 30);
  const std::vector<int32_t> ids = GoldenWindows("llama31-gqa")[0];
  const int last = model.config().num_layers - 1;
  MatrixF x = Embed(model, ids);
  LayerActivations activations;
  for (int layer = 0; layer < last; ++layer) {
    x = ForwardLayer(&model, layer, x, nullptr, &activations);
  }
  MatrixF out = ForwardLayer(&model, last, x, nullptr, &activations);
  MatrixF dout;
  WindowLoss(model, out, ids, &dout);
  const LayerGradient gradient = BackwardLayer(&model, last, x, activations, dout);
  const F32LayerWeights& w = model.Layer(last);
  const auto loss_with = [&](const MatrixF& k, const MatrixF& v) {
    LayerSimulation simulation;
    const auto make = [](const MatrixF& weight) {
      auto p = std::make_shared<ProjectionSimulation>();
      p->up = {MatrixF::Identity(weight.rows(), weight.rows())};
      p->down = {weight};
      return p;
    };
    simulation.key = make(k);
    simulation.value = make(v);
    LayerActivations scratch;
    return WindowLoss(model, ForwardLayer(&model, last, x, &simulation, &scratch), ids, nullptr);
  };
  const MatrixF dk_weight = gradient.dk.transpose() * activations.normed;
  const MatrixF dv_weight = gradient.dv.transpose() * activations.normed;
  for (int trial = 0; trial < 4; ++trial) {
    const MatrixF step = MatrixF::Random(w.k.rows(), w.k.cols());
    const float h = 2e-3f;
    const double key = (loss_with(w.k + h * step, w.v) - loss_with(w.k - h * step, w.v)) / (2 * h);
    const double value =
        (loss_with(w.k, w.v + h * step) - loss_with(w.k, w.v - h * step)) / (2 * h);
    const double tolerance_key = 0.02 * dk_weight.norm(), tolerance_value = 0.02 * dv_weight.norm();
    EXPECT_NEAR(key, step.cwiseProduct(dk_weight).sum(), tolerance_key);
    EXPECT_NEAR(value, step.cwiseProduct(dv_weight).sum(), tolerance_value);
  }
}

// Mean loss by the logits that transformers computed.
double GoldenLoss(const std::string& name) {
  const auto golden = Safetensors::OpenFile(Golden("zoo/" + name + "/golden.safetensors"));
  const auto* logits = reinterpret_cast<const float*>(golden.Find("logits")->data.data());
  const auto vocab = golden.Find("logits")->shape[2];
  double sum = 0, predictions = 0;
  for (const auto& ids : GoldenWindows(name)) {
    for (size_t t = 0; t < ids.size(); ++t, logits += vocab) {
      if (t + 1 == ids.size()) continue;
      const Eigen::Map<const Eigen::ArrayXf> row(logits, vocab);
      const float peak = row.maxCoeff();
      sum += std::log((row - peak).exp().sum()) + peak - row[ids[t + 1]];
      ++predictions;
    }
  }
  return sum / predictions;
}

TEST(Calibration, LogitsLossMatchesTransformers) {
  CheckpointModel model(Golden("zoo/gemma3"), 128, 0);
  const Statistics statistics = Calibrate(&model, GoldenWindows("gemma3"), false, 1, nullptr);
  EXPECT_NEAR(statistics.loss, GoldenLoss("gemma3"), 2e-4 * statistics.loss);
}

// Every expert is calibrated with the tokens that chose it: each token chooses experts_per_token.
TEST(Calibration, CountsTheTokensOfEveryExpert) {
  for (const std::string name : {"mixtral-moe", "qwen3-moe"}) {
    CheckpointModel model(Golden("zoo/" + name), 128, 0);
    const Statistics statistics = Calibrate(&model, GoldenWindows(name), true, 1 << 20, nullptr);
    for (size_t layer = 0; layer < statistics.layers.size(); ++layer) {
      const VectorD& tokens = statistics.layers[layer].expert_tokens;
      if (!model.config().layers[layer].moe) {
        EXPECT_EQ(tokens.size(), 0);
        continue;
      }
      ASSERT_EQ(tokens.size(), model.config().num_experts);
      EXPECT_EQ(tokens.sum(),
                static_cast<double>(statistics.tokens * model.config().experts_per_token));
    }
  }
}

// The loss of mixtures against the logits of transformers, and their backward pass against finite
// differences of the layer's input.
class MixtureOfExperts : public ::testing::TestWithParam<const char*> {};

TEST_P(MixtureOfExperts, LossMatchesTransformers) {
  const std::string name = GetParam();
  CheckpointModel model(Golden("zoo/" + name), 128, 0);
  EXPECT_NEAR(Calibrate(&model, GoldenWindows(name), false, 1, nullptr).loss, GoldenLoss(name),
              2e-4 * GoldenLoss(name));
}

TEST_P(MixtureOfExperts, GradientMatchesFiniteDifferences) {
  const std::string name = GetParam();
  CheckpointModel model(Golden("zoo/" + name), 128, int64_t{1} << 30);
  const std::vector<int32_t> ids = GoldenWindows(name)[0];
  const MatrixF x = Embed(model, ids);
  const MatrixF dout = MatrixF::Random(x.rows(), x.cols());
  LayerActivations a;
  ForwardLayer(&model, 0, x, nullptr, &a);
  const MatrixF dx = BackwardLayer(&model, 0, x, a, dout).dx;
  const auto chosen = [&](const MatrixF& in, LayerActivations* activations) {
    const MatrixF out = ForwardLayer(&model, 0, in, nullptr, activations);
    return out.cast<double>().cwiseProduct(dout.cast<double>()).sum();
  };
  int compared = 0;
  for (int trial = 0; trial < 40; ++trial) {
    const float h = 5e-4f * static_cast<float>(x.norm() / std::sqrt(static_cast<double>(x.size())));
    const MatrixF step = MatrixF::Random(x.rows(), x.cols());
    LayerActivations up, down;
    const double change = (chosen(x + h * step, &up) - chosen(x - h * step, &down)) / (2 * h);
    bool same = true;  // a step that changes the choice of experts has no derivative
    for (size_t e = 0; e < up.mlp.experts.size(); ++e) {
      same = same && up.mlp.experts[e].tokens == down.mlp.experts[e].tokens;
    }
    if (!same) continue;
    ++compared;
    EXPECT_NEAR(change, step.cwiseProduct(dx).sum(), 0.02 * dx.norm());
  }
  EXPECT_GT(compared, 2);
}

INSTANTIATE_TEST_SUITE_P(Zoo, MixtureOfExperts, ::testing::Values("mixtral-moe", "qwen3-moe"));

}  // namespace
}  // namespace palu
