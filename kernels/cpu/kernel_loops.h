// All inner loops for the instruction set of the including file, gathered into a KernelTable.
#pragma once

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd_attention.h"
#include "kernels/cpu/simd_matmul.h"
#include "kernels/cpu/simd_packed_matmul.h"
#include "kernels/cpu/simd_rows.h"
#include "kernels/cpu/simd_unpack.h"

#include "kernels/cpu/simd_sample.h"  // after simd_rows.h, whose loops it uses

#include "kernels/cpu/simd_quads.h"  // after simd_unpack.h, whose loads it uses

#include "kernels/cpu/simd_code_keys.h"  // after simd_quads.h
#include "kernels/cpu/simd_quant.h"      // likewise
#if defined(__AVX512VNNI__)
#include "kernels/cpu/simd_code_sums.h"  // after simd_quant.h, whose codes it stores
#endif

namespace palu::cpu::PALU_SIMD_NAMESPACE {

static constexpr KernelTable MakeTable(const char* name) {
  KernelTable table = {
      .name = name,
      .matmul = Matmul,
      .tile_rows = kTileRows,
      .pack_tile = PackTile,
      .packed_matmul = PackedMatmul,
      .quant_matmul = QuantMatmul,
      .quantize_row = QuantizeRow,
      .gemm = Gemm,
      .finish_keys = FinishKeys,
      .turn_back = TurnBack,
      .to_f32 = ToF32,
      .unpack = Unpack,
      .keys_from_codes = KeysFromCodes,
      .unpack_nibbles = UnpackNibbles,
      .nibbles_to_quads = NibblesToQuads,
      .widen_scales = WidenScales,
      .token_units = UnitsOfTokens,
      .scale_columns = ScaleColumns,
      .transpose = Transpose,
      .softmax_tile = SoftmaxTile,
      .scale = Scale,
      .blend = Blend,
      .rms_norm = RmsNorm,
      .silu_mul = SiluMul,
      .gelu_tanh_mul = GeluTanhMul,
      .rotate = Rotate,
      .hadamard = Hadamard,
      .range = Range,
      .encode = Encode,
      .stretch_maxima = StretchMaxima,
      .weight_sum = WeightSum,
      .weights = Weights,
      .collect_at_least = CollectAtLeast,
      .count_above = CountAbove,
      .keep_allowed = KeepAllowed,
  };
#if defined(__AVX512F__)
  table.reads_whole_rows_only = true;
#endif
#if defined(__AVX512VNNI__)
  table.nibbles_to_token_quads = NibblesToTokenQuads;
  table.digits_of_weights = DigitsOfWeights;
  table.digits_of_query = DigitsOfQuery;
  table.add_value_sums = AddValueSums;
  table.score_dense_codes = ScoreDenseCodes;
#endif
  return table;
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
