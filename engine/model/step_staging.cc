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

StepStaging::StepStaging(Backend* backend, int max_tokens, int max_sequences,
                         int64_t max_table_entries)
    : backend_(backend),
      max_tokens_(static_cast<size_t>(max_tokens)),
      max_sequences_(static_cast<size_t>(max_sequences)),
      max_table_entries_(static_cast<size_t>(max_table_entries)) {
  const size_t bytes = 2 * Align(max_tokens_ * sizeof(int32_t)) +
                       Align((max_tokens_ + max_sequences_) * sizeof(int32_t)) +
                       Align(max_tokens_ * sizeof(int64_t)) +
                       2 * Align((max_sequences_ + 1) * sizeof(int32_t)) +
                       Align(max_table_entries_ * sizeof(int32_t));
  host_.resize(bytes);
  device_ = backend->Allocate(bytes);
}

template <typename T>
Tensor StepStaging::Place(size_t* offset, size_t capacity, std::span<const T> values, DType dtype,
                          std::initializer_list<int64_t> shape) {
  PALU_CHECK(values.size() <= capacity);
  if (!values.empty()) std::memcpy(host_.data() + *offset, values.data(), values.size_bytes());
  const Tensor view = device_.View(dtype, shape, *offset);
  *offset += Align(capacity * sizeof(T));
  return view;
}

void StepStaging::Upload(const StepBatch& batch) {
  const int64_t tokens = batch.num_tokens(), sequences = batch.num_sequences();
  const auto rows = static_cast<int64_t>(batch.rows.size());
  std::vector<int32_t> row_tokens;
  for (const SampleRow& row : batch.rows) row_tokens.push_back(row.token_index);
  const auto i32 = [](const std::vector<int32_t>& values) { return std::span(values); };
  size_t offset = 0;
  inputs_.token_ids = Place(&offset, max_tokens_, i32(batch.token_ids), DType::kI32, {tokens});
  inputs_.positions = Place(&offset, max_tokens_, i32(batch.positions), DType::kI32, {tokens});
  inputs_.slot_mapping =
      Place(&offset, max_tokens_, std::span(batch.slot_mapping), DType::kI64, {tokens});
  logit_rows_ = Place(&offset, max_tokens_ + max_sequences_, i32(row_tokens), DType::kI32, {rows});
  inputs_.cu_seqlens =
      Place(&offset, max_sequences_ + 1, i32(batch.cu_seqlens), DType::kI32, {sequences + 1});
  inputs_.context_lens =
      Place(&offset, max_sequences_ + 1, i32(batch.context_lens), DType::kI32, {sequences});
  // The tables come last, so that only the part in use is copied.
  const size_t used = offset + batch.block_tables.size() * sizeof(int32_t);
  inputs_.block_tables = Place(&offset, max_table_entries_, i32(batch.block_tables), DType::kI32,
                               {sequences, int64_t{batch.max_blocks}});
  backend_->CopyToDevice(device_.data(), host_.data(), used);
}

}  // namespace palu
