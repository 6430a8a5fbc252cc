// Attention of one window in tiles of query rows: scores of a tile are recomputed for the gradient.
#include <algorithm>
#include <limits>

#include "tools/compress/blas.h"
#include "tools/compress/f32_ops.h"

namespace palu {
namespace {

constexpr int kTileRows = 128;

Strided HeadRows(const MatrixF& m, int head, int head_dim, int begin, int rows) {
  const auto stride = static_cast<int>(m.cols());
  return Strided(
      const_cast<float*>(m.data()) + static_cast<size_t>(begin) * stride + head * head_dim, rows,
      head_dim, stride);
}

// Query rows [begin, begin + rows) and the keys [first_key, first_key + keys) that they may see.
struct Tile {
  int begin, rows, first_key, keys;
};

Tile MakeTile(int begin, int tokens, int window) {
  const int rows = std::min(kTileRows, tokens - begin);
  const int first = window > 0 ? std::max(0, begin - window + 1) : 0;
  return {begin, rows, first, begin + rows - first};
}

// Softmax weights of one tile and head, [rows, keys]; zero where masked.
MatrixF Weights(const MatrixF& q, const MatrixF& k, const AttentionShape& shape, int q_head,
                const Tile& tile) {
  const int kv_head = q_head / (shape.q_heads / shape.kv_heads);
  MatrixF p(tile.rows, tile.keys);
  GemmNT(HeadRows(q, q_head, shape.head_dim, tile.begin, tile.rows),
         HeadRows(k, kv_head, shape.head_dim, tile.first_key, tile.keys), p, shape.scale);
  for (int r = 0; r < tile.rows; ++r) {
    const int last = tile.begin + r - tile.first_key;
    const int first =
        shape.window > 0 ? std::max(0, tile.begin + r - shape.window + 1 - tile.first_key) : 0;
    auto seen = p.row(r).segment(first, last - first + 1).array();
    seen = (seen - seen.maxCoeff()).exp();
    seen /= seen.sum();
    p.row(r).head(first).setZero();
    p.row(r).tail(tile.keys - 1 - last).setZero();
  }
  return p;
}

}  // namespace

MatrixF Attention(const MatrixF& q, const MatrixF& k, const MatrixF& v,
                  const AttentionShape& shape) {
  const auto tokens = static_cast<int>(q.rows());
  MatrixF out(tokens, q.cols());
  for (int head = 0; head < shape.q_heads; ++head) {
    const int kv_head = head / (shape.q_heads / shape.kv_heads);
    for (int begin = 0; begin < tokens; begin += kTileRows) {
      const Tile tile = MakeTile(begin, tokens, shape.window);
      const MatrixF p = Weights(q, k, shape, head, tile);
      GemmNN(p, HeadRows(v, kv_head, shape.head_dim, tile.first_key, tile.keys),
             HeadRows(out, head, shape.head_dim, begin, tile.rows));
    }
  }
  return out;
}

AttentionGradient AttentionBackward(const MatrixF& q, const MatrixF& k, const MatrixF& v,
                                    const MatrixF& out, const MatrixF& dout,
                                    const AttentionShape& shape) {
  const auto tokens = static_cast<int>(q.rows());
  const int d = shape.head_dim;
  AttentionGradient grad{MatrixF::Zero(q.rows(), q.cols()), MatrixF::Zero(k.rows(), k.cols()),
                         MatrixF::Zero(v.rows(), v.cols())};
  for (int head = 0; head < shape.q_heads; ++head) {
    const int kv_head = head / (shape.q_heads / shape.kv_heads);
    for (int begin = 0; begin < tokens; begin += kTileRows) {
      const Tile tile = MakeTile(begin, tokens, shape.window);
      const MatrixF p = Weights(q, k, shape, head, tile);
      const Strided dout_tile = HeadRows(dout, head, d, begin, tile.rows);
      GemmTN(p, dout_tile, HeadRows(grad.dv, kv_head, d, tile.first_key, tile.keys), 1, 1);
      MatrixF ds(tile.rows, tile.keys);
      GemmNT(dout_tile, HeadRows(v, kv_head, d, tile.first_key, tile.keys), ds);
      for (int r = 0; r < tile.rows; ++r) {
        const float mean =
            dout.row(begin + r).segment(head * d, d).dot(out.row(begin + r).segment(head * d, d));
        ds.row(r).array() = p.row(r).array() * (ds.row(r).array() - mean) * shape.scale;
      }
      GemmNN(ds, HeadRows(k, kv_head, d, tile.first_key, tile.keys),
             HeadRows(grad.dq, head, d, begin, tile.rows), 1, 1);
      GemmTN(ds, HeadRows(q, head, d, begin, tile.rows),
             HeadRows(grad.dk, kv_head, d, tile.first_key, tile.keys), 1, 1);
    }
  }
  return grad;
}

}  // namespace palu
