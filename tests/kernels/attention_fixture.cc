#include "tests/kernels/attention_fixture.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "tests/kernels/reference/float_formats.h"

namespace palu {
namespace {

constexpr double kNormEps = 1e-5f, kNormOffset = 1.0;

}  // namespace

AttentionProblem* AttentionProblem::Shared(const AttentionCase& c, const Backend& backend,
                                           uint64_t seed) {
  struct Entry {
    AttentionCase c;
    DType activations;
    uint64_t seed;
    std::unique_ptr<AttentionProblem> problem;
  };
  static std::string asking;
  static std::vector<Entry> entries;
  const testing::TestInfo& test = *testing::UnitTest::GetInstance()->current_test_info();
  const std::string full = std::string(test.test_suite_name()) + "." + test.name();
  const std::string name = full.substr(0, full.rfind('/'));
  if (name != asking) entries.clear();
  asking = name;
  for (const Entry& entry : entries) {
    if (entry.c == c && entry.activations == backend.activation_dtype() && entry.seed == seed) {
      return entry.problem.get();
    }
  }
  entries.push_back(
      {c, backend.activation_dtype(), seed, std::make_unique<AttentionProblem>(c, backend, seed)});
  return entries.back().problem.get();
}

AttentionProblem::AttentionProblem(const AttentionCase& c, const Backend& backend, uint64_t seed)
    : case_(c), random_(seed), rotary_(c.rotary_dim < 0 ? c.head_dim : c.rotary_dim) {
  int max_context = 0, blocks_needed = 0;
  cu_seqlens_ = {0};
  for (const SequenceCase& s : c.sequences) {
    cu_seqlens_.push_back(cu_seqlens_.back() + s.queries);
    max_context = std::max(max_context, s.context);
    blocks_needed += (s.context + c.block_size - 1) / c.block_size;
  }
  int64_t offset = 48;
  key_ = MakeSide(c.key, &offset);
  for (size_t g = 0; c.packed && g < key_.ups.size(); ++g) {
    key_.ups[g] = ByteFactor(c.key.heads_per_group, c.key.ranks[g]);
  }
  value_ = MakeSide(c.value, &offset);
  pool_ = HostPool(c.block_size, offset + 40, blocks_needed + 3);
  std::vector<int32_t> ids(pool_.num_blocks);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), random_.engine());
  max_blocks_ = (max_context + c.block_size - 1) / c.block_size + 2;
  size_t next = 0;
  for (size_t s = 0; s < c.sequences.size(); ++s) {
    const int used = (c.sequences[s].context + c.block_size - 1) / c.block_size;
    for (int b = 0; b < max_blocks_; ++b) {
      const int32_t unread = b % 2 == 0 ? -1 : static_cast<int32_t>(pool_.num_blocks) + 1000000;
      block_tables_.push_back(b < used ? ids[next++] : unread);
    }
    FillPool(c.key, key_, static_cast<int>(s));
    FillPool(c.value, value_, static_cast<int>(s));
  }
  q_ = AsActivations(backend, random_.Normal(tokens() * row_width()));
  cos_sin_ = reference::RopeTable(max_context, rotary_, 1e4);
  for (double& x : cos_sin_) x *= c.rope_factor;
  cos_sin_ = reference::Rounded(DType::kF32, cos_sin_);
  k_norm_ = reference::Rounded(DType::kBF16, random_.Normal(c.head_dim, 0.3));
}

AttentionProblem::Side AttentionProblem::MakeSide(const ProjectionCase& projection,
                                                  int64_t* offset) {
  Side side;
  const int groups = case_.kv_heads / projection.heads_per_group;
  const int width = projection.heads_per_group * case_.head_dim;
  const std::vector<int> ranks =
      projection.dense() ? std::vector<int>(groups, width) : projection.ranks;
  side.segments = MakeSegments(projection.format, ranks, case_.block_size, offset);
  if (projection.dense()) return side;
  for (int rank : ranks) {
    side.ups.push_back(reference::Rounded(
        projection.up_dtype, random_.Normal(int64_t{width} * rank, 1.0 / std::sqrt(rank))));
  }
  side.bias =
      reference::Rounded(DType::kBF16, random_.Normal(case_.kv_heads * case_.head_dim, 0.5));
  return side;
}

std::vector<double> AttentionProblem::ByteFactor(int heads, int64_t rank) {
  const int64_t rows = int64_t{heads} * case_.head_dim;
  std::vector<double> factor(static_cast<size_t>(rows * rank));
  std::vector<double> scales(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t within = r % case_.head_dim;
    const bool second = within >= rotary_ / 2 && within < rotary_;
    const double scale =
        second ? scales[r - rotary_ / 2] : std::ldexp(1.0, random_.Integer(-11, -8));
    scales[r] = scale;
    for (int64_t i = 0; i < rank; ++i) factor[r * rank + i] = random_.Integer(-127, 127) * scale;
    factor[r * rank + random_.Integer(0, static_cast<int>(rank) - 1)] = 127 * scale;
  }
  return factor;
}

int64_t AttentionProblem::Slot(int sequence, int position) const {
  return int64_t{block_tables_[sequence * max_blocks_ + position / case_.block_size]} *
             case_.block_size +
         position % case_.block_size;
}

void AttentionProblem::FillPool(const ProjectionCase& projection, const Side& side, int sequence) {
  for (int p = 0; p < case_.sequences[sequence].context; ++p) {
    for (const LatentSegment& segment : side.segments) {
      pool_.Write(segment, Slot(sequence, p), random_.Normal(segment.rank));
    }
  }
}

std::vector<double> AttentionProblem::Head(const ProjectionCase& projection, const Side& side,
                                           int sequence, int position, int head) {
  const int group = head / projection.heads_per_group, within = head % projection.heads_per_group;
  const std::vector<double> row = pool_.Read(side.segments[group], Slot(sequence, position));
  const int dim = case_.head_dim;
  if (projection.dense()) return {row.begin() + within * dim, row.begin() + (within + 1) * dim};
  const auto up = side.ups[group].begin() +
                  static_cast<int64_t>(within) * dim * static_cast<int64_t>(row.size());
  std::vector<double> result =
      reference::Matmul(row, {up, up + dim * static_cast<int64_t>(row.size())}, 1, row.size(), dim);
  if (case_.biases) {
    for (int i = 0; i < dim; ++i) result[i] += side.bias[head * dim + i];
  }
  return result;
}

AttentionProblem::Rows AttentionProblem::Keys(int sequence, int head) {
  Rows keys;
  for (int p = 0; p < case_.sequences[sequence].context; ++p) {
    std::vector<double> key = Head(case_.key, key_, sequence, p, head);
    if (!case_.key.dense()) {
      if (case_.k_norm) key = reference::RmsNorm(key, k_norm_, kNormEps, kNormOffset);
      reference::Rope(key.data(), &cos_sin_[static_cast<int64_t>(p) * rotary_], rotary_);
    }
    keys.push_back(key);
  }
  return keys;
}

void AttentionProblem::ReferenceHead(int sequence, int q_head, const Rows& keys, const Rows& values,
                                     std::vector<double>* out) const {
  const int dim = case_.head_dim;
  const SequenceCase& s = case_.sequences[sequence];
  for (int i = 0; i < s.queries; ++i) {
    const int position = s.context - s.queries + i;
    const int first = case_.window > 0 ? std::max(0, position - case_.window + 1) : 0;
    const int64_t at = (cu_seqlens_[sequence] + i) * row_width() + int64_t{q_head} * dim;
    std::vector<double> weights;
    double largest = -INFINITY, total = 0;
    for (int p = first; p <= position; ++p) {
      double score = 0;
      for (int d = 0; d < dim; ++d) score += q_[at + d] * keys[p][d];
      weights.push_back(score / std::sqrt(dim));
      largest = std::max(largest, weights.back());
    }
    for (double& weight : weights) total += weight = std::exp(weight - largest);
    for (int d = 0; d < dim; ++d) {
      double sum = 0;
      for (int p = first; p <= position; ++p) sum += weights[p - first] * values[p][d];
      (*out)[at + d] = sum / total;
    }
  }
}

const std::vector<double>& AttentionProblem::Reference() {
  if (!reference_.empty()) return reference_;
  std::vector<double>& out = reference_;
  out.resize(tokens() * row_width());
  const int queries_per_kv = case_.q_heads / case_.kv_heads;
  for (int s = 0; s < static_cast<int>(case_.sequences.size()); ++s) {
    for (int head = 0; head < case_.kv_heads; ++head) {
      const Rows keys = Keys(s, head);
      Rows values;
      for (int p = 0; p < case_.sequences[s].context; ++p) {
        values.push_back(Head(case_.value, value_, s, p, head));
      }
      for (int i = 0; i < queries_per_kv; ++i) {
        ReferenceHead(s, head * queries_per_kv + i, keys, values, &out);
      }
    }
  }
  return out;
}

LatentProjection AttentionProblem::Upload(DeviceArrays* arrays, const ProjectionCase& projection,
                                          const Side& side, std::vector<Tensor>* ups,
                                          std::vector<Buffer>* packed) const {
  for (size_t g = 0; g < side.ups.size(); ++g) {
    const int64_t rank = side.segments[g].rank;
    ups->push_back(arrays->Put(projection.up_dtype, side.ups[g],
                               {int64_t{projection.heads_per_group} * case_.head_dim, rank}));
    if (packed == nullptr) continue;
    Buffer buffer =
        arrays->backend()->PackUp(ups->back(), projection.format, case_.head_dim, rotary_);
    if (buffer.defined()) packed->push_back(std::move(buffer));
  }
  LatentProjection result;
  result.groups = side.segments;
  result.heads_per_group = projection.heads_per_group;
  result.up = *ups;
  if (packed != nullptr) result.packed_up = *packed;
  return result;
}

std::vector<uint8_t> AttentionProblem::Attend(Backend* backend, const std::vector<Piece>& pieces,
                                              int steps) {
  DeviceArrays arrays(backend);
  std::vector<int32_t> cu = {0}, lens, tables;
  std::vector<double> q;
  for (const Piece& piece : pieces) {
    const SequenceCase& s = case_.sequences[piece.sequence];
    cu.push_back(cu.back() + piece.count);
    lens.push_back(s.context - s.queries + piece.first + piece.count);
    const auto table = block_tables_.begin() + piece.sequence * max_blocks_;
    tables.insert(tables.end(), table, table + max_blocks_);
    const auto row = q_.begin() + (cu_seqlens_[piece.sequence] + piece.first) * row_width();
    q.insert(q.end(), row, row + piece.count * row_width());
  }
  const int64_t total = cu.back(), count = static_cast<int64_t>(pieces.size());
  std::vector<Tensor> key_ups, value_ups;
  LatentAttentionArgs args;
  args.q = arrays.PutActivations(q, {total, case_.q_heads, case_.head_dim});
  args.out = arrays.NewActivations({total, case_.q_heads, case_.head_dim});
  args.cu_seqlens = arrays.PutInts(cu, {count + 1});
  args.context_lens = arrays.PutInts(lens, {count});
  args.block_tables = arrays.PutInts(tables, {count, max_blocks_});
  args.pool = pool_.View(arrays.PutBytes(pool_.bytes));
  std::vector<Buffer> packed;
  args.key = Upload(&arrays, case_.key, key_, &key_ups, case_.packed ? &packed : nullptr);
  args.value = Upload(&arrays, case_.value, value_, &value_ups, nullptr);
  const int64_t kv_width = int64_t{case_.kv_heads} * case_.head_dim;
  if (!case_.key.dense()) {
    args.cos_sin = arrays.Put(DType::kF32, cos_sin_,
                              {static_cast<int64_t>(cos_sin_.size()) / rotary_, rotary_});
    if (case_.biases) args.key_bias = arrays.Put(DType::kBF16, key_.bias, {kv_width});
    if (case_.k_norm) args.k_norm = arrays.Put(DType::kBF16, k_norm_, {case_.head_dim});
    args.k_norm_eps = static_cast<float>(kNormEps);
    args.k_norm_offset = static_cast<float>(kNormOffset);
  }
  if (!case_.value.dense() && case_.biases) {
    args.value_bias = arrays.Put(DType::kBF16, value_.bias, {kv_width});
  }
  args.kv_heads = case_.kv_heads;
  args.scale = static_cast<float>(1.0 / std::sqrt(case_.head_dim));
  args.window = case_.window;
  if (steps == 0) {
    backend->LatentAttention(args);
  } else {
    AttendInSteps(&arrays, args, steps);
  }
  return arrays.GetBytes(args.out);
}

void AttentionProblem::AttendInSteps(DeviceArrays* arrays, const LatentAttentionArgs& args,
                                     int steps) {
  std::vector<int64_t> slots;
  for (size_t s = 0; s < case_.sequences.size(); ++s) {
    slots.push_back(Slot(static_cast<int>(s), case_.sequences[s].context - 1));
  }
  const auto count = static_cast<int64_t>(slots.size());
  const Tensor slot_mapping = arrays->PutInts64(slots, {count});
  HostPool poisoned = pool_;
  const auto write_of = [&](const Side& side, const LatentProjection& projection) {
    std::vector<double> rows;
    for (const int64_t slot : slots) {
      for (const LatentSegment& segment : side.segments) {
        const std::vector<double> row = pool_.Read(segment, slot);
        rows.insert(rows.end(), row.begin(), row.end());
        std::fill_n(poisoned.Codes(segment, slot), segment.row_bytes, 0xff);
      }
    }
    const auto columns = static_cast<int64_t>(rows.size()) / count;
    return LatentWriteArgs{.x = arrays->PutActivations(rows, {count, columns}),
                           .slot_mapping = slot_mapping,
                           .projection = projection,
                           .pool = args.pool};
  };
  const LatentWriteArgs key = write_of(key_, args.key);
  const LatentWriteArgs value = write_of(value_, args.value);
  static uint64_t step_key = uint64_t{1} << 40;
  ++step_key;
  Backend* backend = arrays->backend();
  const std::vector<uint8_t> unwritten(arrays->GetBytes(args.out).size(), 0xff);
  for (int i = 0; i < steps; ++i) {
    backend->CopyToDevice(args.pool.data, poisoned.bytes.data(), poisoned.bytes.size());
    backend->CopyToDevice(args.out.data, unwritten.data(), unwritten.size());
    backend->RunStep(step_key, [&] {
      backend->LatentWrites(key, value);
      backend->LatentAttention(args);
    });
  }
  backend->Synchronize();
}

std::vector<uint8_t> AttentionProblem::Run(Backend* backend) {
  return Attend(backend, AllQueries(), 0);
}

std::vector<uint8_t> AttentionProblem::RunAsSteps(Backend* backend, int steps) {
  return Attend(backend, AllQueries(), steps);
}

std::vector<AttentionProblem::Piece> AttentionProblem::AllQueries() const {
  std::vector<Piece> pieces;
  for (size_t s = 0; s < case_.sequences.size(); ++s) {
    pieces.push_back({static_cast<int>(s), 0, case_.sequences[s].queries});
  }
  return pieces;
}

std::vector<double> AttentionProblem::Values(const Backend& backend,
                                             const std::vector<uint8_t>& bytes) const {
  const size_t size = SizeOf(backend.activation_dtype());
  std::vector<double> values(bytes.size() / size);
  for (size_t i = 0; i < values.size(); ++i) {
    if (size == 4) {
      float value;
      std::memcpy(&value, &bytes[4 * i], 4);
      values[i] = value;
    } else {
      uint16_t bits;
      std::memcpy(&bits, &bytes[2 * i], 2);
      values[i] = backend.activation_dtype() == DType::kBF16 ? reference::BF16Value(bits)
                                                             : reference::F16Value(bits);
    }
  }
  return values;
}

}  // namespace palu
