#include "engine/model/step_staging.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

namespace palu {
namespace {

constexpr size_t kAlignment = 64;

size_t Align(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

size_t PackedUpload::AddBytes(std::span<const std::byte> bytes) {
  const size_t offset = AddSpace(bytes.size());
  if (!bytes.empty()) std::memcpy(host_.data() + offset, bytes.data(), bytes.size());
  return offset;
}

size_t PackedUpload::AddSpace(size_t bytes) {
  const size_t offset = host_.size();
  host_.resize(offset + Align(std::max<size_t>(bytes, 1)));
  return offset;
}

void PackedUpload::Reserve(size_t bytes) {
  if (bytes <= device_.bytes()) return;
  device_ = Buffer();
  device_ = backend_->Allocate(bytes);
}

void PackedUpload::Upload() {
  if (host_.size() > device_.bytes()) Reserve(host_.size() + host_.size() / 2);
  backend_->CopyToDevice(device_.data(), host_.data(), host_.size());
}

void PackedUpload::Download(size_t begin, size_t end) {
  PALU_CHECK(begin <= end && end <= host_.size());
  backend_->CopyToHost(host_.data() + begin, static_cast<std::byte*>(device_.data()) + begin,
                       end - begin);
}

StepStaging::StepStaging(Backend* backend, int num_groups, int max_tokens, int max_sequences,
                         int64_t max_table_entries)
    : backend_(backend),
      num_groups_(static_cast<size_t>(num_groups)),
      max_tokens_(static_cast<size_t>(max_tokens)),
      max_sequences_(static_cast<size_t>(max_sequences)),
      max_table_entries_(static_cast<size_t>(max_table_entries)) {
  const size_t bytes = 2 * Align(max_tokens_ * sizeof(int32_t)) +
                       Align((max_tokens_ + max_sequences_) * sizeof(int32_t)) +
                       num_groups_ * Align(max_tokens_ * sizeof(int64_t)) +
                       2 * Align((max_sequences_ + 1) * sizeof(int32_t)) +
                       Align(num_groups_ * max_table_entries_ * sizeof(int32_t));
  host_.resize(bytes);
  device_ = backend->Allocate(bytes);
  inputs_.slot_mapping.resize(num_groups_);
  inputs_.block_tables.resize(num_groups_);
}

template <typename T>
Tensor StepStaging::Place(size_t* offset, size_t capacity, std::span<const T> values, T filler,
                          DType dtype, std::initializer_list<int64_t> shape) {
  const Tensor view = device_.View(dtype, shape, *offset);
  const auto count = static_cast<size_t>(view.num_elements());
  PALU_CHECK(values.size() <= count && count <= capacity);
  T* to = reinterpret_cast<T*>(host_.data() + *offset);
  std::fill(std::copy(values.begin(), values.end(), to), to + count, filler);
  *offset += Align(capacity * sizeof(T));
  return view;
}

size_t StepStaging::PlaceTables(size_t offset, const StepBatch& batch, const StepShape& shape) {
  const int64_t entries = int64_t{shape.sequences} * shape.max_blocks;
  PALU_CHECK(static_cast<size_t>(entries) <= max_table_entries_);
  auto from = batch.block_tables.begin();
  for (Tensor& tables : inputs_.block_tables) {
    tables = device_.View(DType::kI32, {shape.sequences, shape.max_blocks}, offset);
    auto* row = reinterpret_cast<int32_t*>(host_.data() + offset);
    std::fill_n(row, entries, 0);
    for (int s = 0; s < batch.num_sequences(); ++s) {
      std::copy_n(from, batch.max_blocks, row);
      from += batch.max_blocks;
      row += shape.max_blocks;
    }
    offset += static_cast<size_t>(entries) * sizeof(int32_t);
  }
  return offset;
}

void StepStaging::Upload(const StepBatch& batch, const StepShape& shape) {
  const int64_t sequences = shape.sequences, added = sequences - batch.num_sequences();
  const int64_t tokens = batch.num_tokens() + added;
  PALU_CHECK(static_cast<size_t>(batch.num_groups) == num_groups_);
  PALU_CHECK(added >= 0 && shape.max_blocks >= batch.max_blocks);
  PALU_CHECK(added == 0 || batch.num_tokens() == batch.num_sequences());
  row_tokens_.clear();
  for (const SampleRow& row : batch.rows) row_tokens_.push_back(row.token_index);
  const auto rows = static_cast<int64_t>(row_tokens_.size()) + added;
  cu_seqlens_ = batch.cu_seqlens;
  for (int64_t i = 0; i < added; ++i) cu_seqlens_.push_back(cu_seqlens_.back() + 1);
  const auto i32 = [](const std::vector<int32_t>& values) { return std::span(values); };
  size_t offset = 0;
  const auto place = [&](size_t capacity, const std::vector<int32_t>& values, int32_t filler,
                         int64_t count) {
    return Place(&offset, capacity, i32(values), filler, DType::kI32, {count});
  };
  inputs_.token_ids = place(max_tokens_, batch.token_ids, 0, tokens);
  inputs_.positions = place(max_tokens_, batch.positions, 0, tokens);
  for (size_t group = 0; group < num_groups_; ++group) {
    const auto slots = std::span(batch.slot_mapping)
                           .subspan(group * batch.token_ids.size(), batch.token_ids.size());
    inputs_.slot_mapping[group] =
        Place(&offset, max_tokens_, slots, int64_t{-1}, DType::kI64, {tokens});
  }
  logit_rows_ = place(max_tokens_ + max_sequences_, row_tokens_, 0, rows);
  const size_t lengths = offset;
  inputs_.cu_seqlens = place(max_sequences_ + 1, cu_seqlens_, 0, sequences + 1);
  const size_t contexts = offset;
  inputs_.context_lens = place(max_sequences_ + 1, batch.context_lens, 1, sequences);
  inputs_.host_cu_seqlens = {reinterpret_cast<const int32_t*>(host_.data() + lengths),
                             static_cast<size_t>(sequences + 1)};
  inputs_.host_context_lens = {reinterpret_cast<const int32_t*>(host_.data() + contexts),
                               static_cast<size_t>(sequences)};
  // The tables come last, one after the other, so that only the part in use is copied.
  const size_t used = PlaceTables(offset, batch, shape);
  backend_->CopyToDevice(device_.data(), host_.data(), used);
}

}  // namespace palu
