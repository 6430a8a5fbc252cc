// The copying warps of the fast decode kernel: latents from the pages, and angles for them, into
// a ring of stages in shared memory.
#pragma once

#include "kernels/cuda/decode_layout.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/pipeline.cuh"

namespace palu::cuda {

// Angles of sixteen tokens from those of the first: the table is linear in the position (row t
// turns by t times the angles of row 1, all rows scaled alike), so row t0 + j is row t0 times row j
// over the scale. Reads one row of the table instead of sixteen.
template <int kHeadDim, bool kByRows, int kMostUnits>
class AngleWriter {
 public:
  static constexpr int kPairs = kHeadDim / 4;  // of frequencies
  static constexpr int kItems = (kDecodeUnit * kPairs + kCopyThreads - 1) / kCopyThreads;

  __device__ void Init(const float* table, int thread) {
    table_ = table;
    thread_ = thread;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int pair = Pair(i);
      const float2 scale = Cosines(0, pair);
      const float2 c = Cosines(Token(i), pair);
      const float2 s = Sines(Token(i), pair);
      cos_[i] = {c.x / scale.x, c.y / scale.y};
      sin_[i] = {s.x / scale.x, s.y / scale.y};
    }
  }

  // Reads the first row of every unit from `token` on; a stage ahead of Store, because it takes a
  // trip to memory.
  __device__ void Fetch(int token, int end) {
#pragma unroll
    for (int u = 0; u < kMostUnits; ++u) {
      if (token + u * kDecodeUnit >= end) break;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        base_cos_[u][i] = Cosines(token + u * kDecodeUnit, Pair(i));
        base_sin_[u][i] = Sines(token + u * kDecodeUnit, Pair(i));
      }
    }
  }

  // Writes the rows of a stage.
  __device__ void Store(uint8_t* angles, int units) const {
#pragma unroll
    for (int u = 0; u < kMostUnits; ++u) {
      if (u >= units) break;
      StoreUnit(u, angles + u * kDecodeUnit * kAngleStride<kHeadDim, kByRows>);
    }
  }

 private:
  // A thread's items share their pair of frequencies where the counts divide.
  static constexpr int kRows = kCopyThreads % kPairs == 0 ? 1 : kItems;

  __device__ void StoreUnit(int u, uint8_t* angles) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (kDecodeUnit * kPairs % kCopyThreads != 0 && Item(i) >= kDecodeUnit * kPairs) break;
      const float2 bc = base_cos_[u][i % kRows];
      const float2 bs = base_sin_[u][i % kRows];
      const __half2 c = __floats2half2_rn(bc.x * cos_[i].x - bs.x * sin_[i].x,
                                          bc.y * cos_[i].y - bs.y * sin_[i].y);
      const __half2 s = __floats2half2_rn(bs.x * cos_[i].x + bc.x * sin_[i].x,
                                          bs.y * cos_[i].y + bc.y * sin_[i].y);
      uint8_t* row = angles + Token(i) * kAngleStride<kHeadDim, kByRows> + Pair(i) * 4;
      *reinterpret_cast<__half2*>(row) = c;
      *reinterpret_cast<__half2*>(row + kHeadDim) = s;
    }
  }

  __device__ int Item(int i) const { return i * kCopyThreads + thread_; }
  __device__ int Token(int i) const { return Item(i) / kPairs % kDecodeUnit; }
  __device__ int Pair(int i) const { return Item(i) % kPairs; }
  __device__ float2 Cosines(int token, int pair) const {
    return *reinterpret_cast<const float2*>(table_ + static_cast<int64_t>(token) * kHeadDim +
                                            2 * pair);
  }
  __device__ float2 Sines(int token, int pair) const {
    return *reinterpret_cast<const float2*>(table_ + static_cast<int64_t>(token) * kHeadDim +
                                            kHeadDim / 2 + 2 * pair);
  }

  const float* table_;
  int thread_;
  float2 cos_[kItems], sin_[kItems];
  float2 base_cos_[kMostUnits][kRows], base_sin_[kMostUnits][kRows];
};

// The copying warps' side of the ring. A plane is the rows, or the scales, of one group. Planes
// whose rows lie in the stage as in the page go by one bulk copy each, the others in chunks of
// sixteen bytes, a warp per plane. Rows past the end become zeros: they may hold anything, and
// 0 * NaN is not 0.
template <bool kScaled>
class StageCopier {
 public:
  __device__ StageCopier(const AttentionParams& p, const DecodeLayout& layout, int thread,
                         SplitRange range)
      : p_(p),
        layout_(layout),
        scope_(p, layout),
        warp_(thread / kWarp),
        lane_(thread % kWarp),
        end_(range.end),
        tokens_(layout.units * kDecodeUnit),
        piece_(min(tokens_, p.block_size)),
        table_(p.block_tables + blockIdx.z * p.table_stride),
        key_(layout.key, lane_),
        value_(layout.value, lane_) {
    FindPlane();
  }

  // Reads the ids of the cache blocks of a stage ahead of its copies.
  __device__ int FetchBlocks(int token) const {
    const int at = token + lane_ * piece_;
    return at < end_ && at < token + tokens_ ? table_[at >> layout_.block_shift] : 0;
  }

  __device__ void Copy(int token, int blocks, uint32_t stage, uint32_t barrier) const {
    for (int i = 0; i * piece_ < tokens_; ++i) {
      const int first = token + i * piece_;
      const std::byte* block =
          p_.pool + static_cast<int64_t>(__shfl_sync(~0u, blocks, i)) * p_.block_bytes;
      const Piece piece{i * piece_, first & (p_.block_size - 1), end_ - first};
      const SegmentView* keys = p_.key.groups + scope_.key_group;
      const SegmentView* values = p_.value.groups + scope_.value_group;
      if (piece.rows < piece_) {
        CopySome(layout_.key, keys, scope_.keys, block, piece, stage);
        CopySome(layout_.value, values, scope_.values, block, piece, stage);
        continue;
      }
      if (plane_bytes_ > 0) {
        CopyBulk(stage + plane_to_ + piece.at * plane_bytes_,
                 block + plane_from_ + piece.offset * plane_bytes_, piece_ * plane_bytes_, barrier);
      }
      if (!Line(layout_.key)) {
        CopyPadded(layout_.key, key_, keys, scope_.keys, block, piece, stage);
      }
      if (!Line(layout_.value)) {
        CopyPadded(layout_.value, value_, values, scope_.values, block, piece, stage);
      }
    }
  }

 private:
  // Tokens of one cache block: the first one's place in the stage and in the block, and how many
  // exist from there on.
  struct Piece {
    int at, offset, rows;
  };

  // Where a lane's sixteen-byte chunks of padded rows go: chunk lane, lane + 32, ….
  struct Walk {
    int column, to;

    __device__ Walk(const SideLayout& side, int lane) {
      column = lane % side.row_chunks;
      to = lane * 16 + lane / side.row_chunks * (side.stride - side.row_bytes);
    }
  };

  __device__ static bool Line(const SideLayout& side) {
    return kScaled || side.stride == side.row_bytes;
  }

  // The plane that this thread copies in bulk, if any.
  __device__ void FindPlane() {
    int plane = lane_ * kCopyWarps + warp_;
    plane_bytes_ = 0;
    const auto take = [&](const SideLayout& side, const SegmentView* segments, int groups,
                          bool scales) {
      if (!scales && !Line(side)) return;
      if (plane >= 0 && plane < groups) {
        plane_from_ = scales ? segments[plane].scales_offset : segments[plane].codes_offset;
        plane_bytes_ = scales ? kScaleBytes : side.row_bytes;
        plane_to_ = side.begin + plane * side.group_bytes + (scales ? side.scales : 0);
      }
      plane -= groups;
    };
    const SegmentView* keys = p_.key.groups + scope_.key_group;
    const SegmentView* values = p_.value.groups + scope_.value_group;
    take(layout_.key, keys, scope_.keys, false);
    take(layout_.value, values, scope_.values, false);
    if constexpr (kScaled) {
      take(layout_.key, keys, scope_.keys, true);
      take(layout_.value, values, scope_.values, true);
    }
  }

  __device__ void CopyPadded(const SideLayout& side, const Walk& walk, const SegmentView* segments,
                             int groups, const std::byte* block, Piece piece,
                             uint32_t stage) const {
    const std::byte* rows = block + piece.offset * side.row_bytes + lane_ * 16;
    for (int group = warp_; group < groups; group += kCopyWarps) {
      const std::byte* from = rows + segments[group].codes_offset;
      uint32_t to =
          stage + side.begin + group * side.group_bytes + piece.at * side.stride + walk.to;
      int column = walk.column;
#pragma unroll 2
      for (int left = piece_ * side.row_chunks - lane_; left > 0; left -= kWarp) {
        CopyOfLineAsync16(to, from);
        from += kWarp * 16;
        to += side.step_bytes;
        column += side.column_step;
        if (column >= side.row_chunks) {
          column -= side.row_chunks;
          to += side.stride - side.row_bytes;
        }
      }
    }
  }

  // The end of a context, once per sequence.
  __device__ void CopySome(const SideLayout& side, const SegmentView* segments, int groups,
                           const std::byte* block, Piece piece, uint32_t stage) const {
    const int rows = max(piece.rows, 0);
    for (int group = warp_; group < groups; group += kCopyWarps) {
      const uint32_t to = stage + side.begin + group * side.group_bytes;
      const std::byte* from = block + segments[group].codes_offset + piece.offset * side.row_bytes;
      if (Line(side)) {
        CopyLine(to + piece.at * side.stride, from, piece_ * side.row_bytes, rows * side.row_bytes);
      } else {
        for (int i = lane_; i < piece_ * side.row_chunks; i += kWarp) {
          const int row = i / side.row_chunks;
          CopyAsync16(to + (piece.at + row) * side.stride + i % side.row_chunks * 16,
                      row < rows ? from + i * 16 : from, row < rows ? 16 : 0);
        }
      }
      if constexpr (kScaled) {
        CopyLine(to + side.scales + piece.at * kScaleBytes,
                 block + segments[group].scales_offset + piece.offset * kScaleBytes,
                 piece_ * kScaleBytes, rows * kScaleBytes);
      }
    }
  }

  __device__ void CopyLine(uint32_t to, const std::byte* from, int bytes, int valid) const {
    for (int at = lane_ * 16; at < bytes; at += kWarp * 16) {
      CopyAsync16(to + at, from + at, max(0, min(16, valid - at)));
    }
  }

  const AttentionParams& p_;
  const DecodeLayout& layout_;
  BlockScope scope_;
  int warp_, lane_, end_, tokens_, piece_;
  const int32_t* table_;
  Walk key_, value_;
  int64_t plane_from_;
  int plane_bytes_, plane_to_;
};

}  // namespace palu::cuda
