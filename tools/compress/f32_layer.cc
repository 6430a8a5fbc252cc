#include "tools/compress/f32_layer.h"

#include "tools/compress/blas.h"
#include "tools/compress/f32_ops.h"

namespace palu {
namespace {

// dx += dy * weight.
void LinearBackward(const MatrixF& dy, const MatrixF& weight, MatrixF* dx) {
  GemmNN(dy, weight, *dx, 1, 1);
}

MatrixF NormHeads(const ModelConfig& config, const MatrixF& x, const VectorF& weight) {
  if (weight.size() == 0) return x;
  return RmsNorm(x, weight, config.rms_norm_eps, config.rms_norm_offset);
}

MatrixF NormHeadsBackward(const ModelConfig& config, const MatrixF& x, const MatrixF& dy,
                          const VectorF& weight) {
  if (weight.size() == 0) return dy;
  return RmsNormBackward(x, dy, weight, config.rms_norm_eps, config.rms_norm_offset);
}

AttentionShape ShapeOf(const ModelConfig& config, int layer) {
  return {config.num_heads, config.num_kv_heads, config.head_dim, config.attention_scale,
          config.layers[layer].window};
}

void KeysAndValues(const ModelConfig& config, const F32LayerWeights& w,
                   const LayerSimulation* simulation, const MatrixF& cos_sin, LayerActivations* a) {
  const bool low_rank_key = simulation != nullptr && !simulation->key->dense();
  a->k_out = low_rank_key ? ThroughLatents(*simulation->key, a->normed) : Linear(a->normed, w.k);
  if (w.k_bias.size() > 0) a->k_out.rowwise() += w.k_bias.transpose();
  a->k = NormHeads(config, a->k_out, w.k_norm);
  Rope(&a->k, cos_sin, config.head_dim, 1);
  if (simulation != nullptr && !low_rank_key) ThroughDenseCache(*simulation->key, &a->k);

  const bool low_rank_value = simulation != nullptr && !simulation->value->dense();
  a->v = low_rank_value ? ThroughLatents(*simulation->value, a->normed) : Linear(a->normed, w.v);
  if (w.v_bias.size() > 0) a->v.rowwise() += w.v_bias.transpose();
  if (simulation != nullptr && !low_rank_value) ThroughDenseCache(*simulation->value, &a->v);
}

}  // namespace

MatrixF ForwardLayer(F32Model* model, int layer, const MatrixF& x,
                     const LayerSimulation* simulation, LayerActivations* a) {
  const ModelConfig& config = model->config();
  const F32LayerWeights& w = model->Layer(layer);
  const MatrixF& cos_sin = model->cos_sin(config.layers[layer].rope);
  a->normed = RmsNorm(x, w.input_norm, config.rms_norm_eps, config.rms_norm_offset);
  a->q_out = Linear(a->normed, w.q, w.q_bias);
  a->q = NormHeads(config, a->q_out, w.q_norm);
  Rope(&a->q, cos_sin, config.head_dim, 1);
  KeysAndValues(config, w, simulation, cos_sin, a);
  a->heads = Attention(a->q, a->k, a->v, ShapeOf(config, layer));
  a->attention_out = Linear(a->heads, w.o, w.o_bias);
  a->middle = x + NormHeads(config, a->attention_out, w.attention_out_norm);
  a->mlp_normed = RmsNorm(a->middle, w.mlp_norm, config.rms_norm_eps, config.rms_norm_offset);
  a->mlp_out = FeedForward(config, w, a->mlp_normed, &a->mlp);
  return a->middle + NormHeads(config, a->mlp_out, w.mlp_out_norm);
}

LayerGradient BackwardLayer(F32Model* model, int layer, const MatrixF& x, const LayerActivations& a,
                            const MatrixF& dout) {
  const ModelConfig& config = model->config();
  const F32LayerWeights& w = model->Layer(layer);
  const MatrixF& cos_sin = model->cos_sin(config.layers[layer].rope);
  const MatrixF dmlp = NormHeadsBackward(config, a.mlp_out, dout, w.mlp_out_norm);
  const MatrixF dmlp_normed = FeedForwardBackward(config, w, a.mlp_normed, a.mlp, dmlp);
  const MatrixF dmiddle = dout + RmsNormBackward(a.middle, dmlp_normed, w.mlp_norm,
                                                 config.rms_norm_eps, config.rms_norm_offset);

  const MatrixF dattention =
      NormHeadsBackward(config, a.attention_out, dmiddle, w.attention_out_norm);
  MatrixF dheads(a.heads.rows(), a.heads.cols());
  GemmNN(dattention, w.o, dheads);
  AttentionGradient grad =
      AttentionBackward(a.q, a.k, a.v, a.heads, dheads, ShapeOf(config, layer));
  Rope(&grad.dq, cos_sin, config.head_dim, -1);
  Rope(&grad.dk, cos_sin, config.head_dim, -1);
  LayerGradient result;
  const MatrixF dq = NormHeadsBackward(config, a.q_out, grad.dq, w.q_norm);
  result.dk = NormHeadsBackward(config, a.k_out, grad.dk, w.k_norm);
  result.dv = std::move(grad.dv);
  MatrixF dnormed = MatrixF::Zero(x.rows(), x.cols());
  LinearBackward(dq, w.q, &dnormed);
  LinearBackward(result.dk, w.k, &dnormed);
  LinearBackward(result.dv, w.v, &dnormed);
  result.dx = dmiddle + RmsNormBackward(x, dnormed, w.input_norm, config.rms_norm_eps,
                                        config.rms_norm_offset);
  return result;
}

MatrixF Embed(const F32Model& model, std::span<const int32_t> ids) {
  MatrixF x(static_cast<Eigen::Index>(ids.size()), model.embedding().cols());
  for (size_t t = 0; t < ids.size(); ++t) {
    x.row(static_cast<Eigen::Index>(t)) =
        model.embedding().row(ids[t]) * model.config().embedding_scale;
  }
  return x;
}

MatrixF FinalNorm(const F32Model& model, const MatrixF& x) {
  const ModelConfig& config = model.config();
  return RmsNorm(x, model.final_norm(), config.rms_norm_eps, config.rms_norm_offset);
}

double WindowLoss(const F32Model& model, const MatrixF& x, std::span<const int32_t> ids,
                  MatrixF* dx) {
  const ModelConfig& config = model.config();
  const MatrixF normed = FinalNorm(model, x);
  MatrixF dnormed;
  const double loss = CrossEntropy(normed, model.head(), ids, dx == nullptr ? nullptr : &dnormed);
  if (dx != nullptr) {
    *dx = RmsNormBackward(x, dnormed, model.final_norm(), config.rms_norm_eps,
                          config.rms_norm_offset);
  }
  return loss;
}

}  // namespace palu
