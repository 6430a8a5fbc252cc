// Loops over one tile of attention. Keys and cosines lie transposed, tokens along the vector.
#pragma once

namespace palu::cpu::PALU_SIMD_NAMESPACE {

static void Transpose(const float* in, int64_t ld_in, int rows, int cols, float* out,
                      int64_t ld_out) {
  for (int r = 0; r < rows; r += kLanes) {
    for (int c = 0; c < cols; c += kLanes) {
      TransposeSquare(in + r * ld_in + c, ld_in, out + c * ld_out + r, ld_out);
    }
  }
}

static inline void NormKeyColumns(const FinishKeysBlock& block, float* keys) {
  Vec squares = Zero();
  for (int i = 0; i < block.head_dim; ++i) {
    const Vec x = Load(keys + i * kTileTokens);
    squares = Fma(x, x, squares);
  }
  const Vec mean = Div(squares, Set1(static_cast<float>(block.head_dim)));
  const Vec inverse = Div(Set1(1.0f), Sqrt(Add(mean, Set1(block.norm_eps))));
  for (int i = 0; i < block.head_dim; ++i) {
    float* row = keys + i * kTileTokens;
    Store(row, Mul(Mul(Load(row), inverse), Set1(block.norm[i])));
  }
}

static inline void RotateKeyColumns(const FinishKeysBlock& block, float* keys,
                                    const float* cos_sin) {
  const int half = block.rotary_dim / 2;
  for (int i = 0; i < half; ++i) {
    float* first = keys + i * kTileTokens;
    float* second = first + half * kTileTokens;
    const Vec c = Load(cos_sin + i * kTileTokens);
    const Vec s = Load(cos_sin + (i + half) * kTileTokens);
    const Vec x = Load(first), y = Load(second);
    Store(first, Sub(Mul(x, c), Mul(y, s)));
    Store(second, Fma(y, c, Mul(x, s)));
  }
}

static void FinishKeys(const FinishKeysBlock& block) {
  for (int col = 0; col < block.columns; col += kLanes) {
    float* keys = block.keys + col;
    if (block.tokens != nullptr) {
      const Vec unit = Load(block.tokens->scales + col);
      for (int i = 0; i < block.head_dim; ++i) {
        float* row = keys + i * kTileTokens;
        Store(row, Mul(Load(row), Mul(unit, Set1(block.row_scales[i]))));
      }
    }
    if (block.bias != nullptr) {
      for (int i = 0; i < block.head_dim; ++i) {
        float* row = keys + i * kTileTokens;
        Store(row, Add(Load(row), Set1(block.bias[i])));
      }
    }
    if (block.norm != nullptr) NormKeyColumns(block, keys);
    if (block.cos_sin != nullptr) RotateKeyColumns(block, keys, block.cos_sin + col);
  }
}

static void TurnBack(const float* in, int64_t rows, int64_t width, const float* cos_sin, int half,
                     float* out) {
  for (int64_t column = 0; column < width; column += kLanes) {
    float cosines[kLanes], sines[kLanes];
    for (int lane = 0; lane < kLanes; lane += 2) {
      const int64_t pair = (column + lane) / 2;
      cosines[lane] = cosines[lane + 1] = pair < half ? cos_sin[pair] : 1.0f;
      sines[lane] = pair < half ? cos_sin[half + pair] : 0.0f;
      sines[lane + 1] = -sines[lane];
    }
    const Vec c = Load(cosines), s = Load(sines);
    for (int64_t row = 0; row < rows; ++row) {
      const Vec x = Load(in + row * width + column);
      Store(out + row * width + column, Fma(Exchange<1>(x), s, Mul(x, c)));
    }
  }
}

static void UnitsOfTokens(const float* scales, const float* zeros, TokenUnits* out) {
  constexpr float kTiny = 1e-9f;  // the least that f16 can hold is 6e-8
  for (int t = 0; t < kTileTokens; t += kLanes) {
    // A comparison with NaN takes the second operand.
    const Vec scale = Max(Set1(kTiny), Load(scales + t));
    const Vec inverse = Div(Set1(1.0f), scale);
    Store(out->scales + t, scale);
    Store(out->ratios + t, Mul(Load(zeros + t), inverse));
    Store(out->inverses + t, inverse);
  }
}

static void ScaleColumns(float* rows, int64_t count, const float* factors) {
  for (int64_t row = 0; row < count; ++row, rows += kTileTokens) {
    for (int t = 0; t < kTileTokens; t += kLanes)
      Store(rows + t, Mul(Load(rows + t), Load(factors + t)));
  }
}

static float SoftmaxTile(float* scores, int begin, int end, float* max, float* sum) {
  const float kMinusInfinity = -__builtin_inff();
  for (int i = 0; i < begin; ++i) scores[i] = kMinusInfinity;
  for (int i = end; i < kTileTokens; ++i) scores[i] = kMinusInfinity;
  Vec largest = Load(scores);
  for (int i = kLanes; i < kTileTokens; i += kLanes) largest = Max(largest, Load(scores + i));
  const float tile_max = ReduceMax(largest);
  const float new_max = tile_max > *max ? tile_max : *max;
  const Vec shift = Set1(new_max);
  Vec total = Zero();
  for (int i = 0; i < kTileTokens; i += kLanes) {
    const Vec weight = Exp(Sub(Load(scores + i), shift));
    Store(scores + i, weight);
    total = Add(total, weight);
  }
  float shrink[kLanes];
  Store(shrink, Exp(Sub(Set1(*max), shift)));
  *sum = *sum * shrink[0] + ReduceAdd(total);
  *max = new_max;
  return shrink[0];
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
