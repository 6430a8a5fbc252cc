// Brings a step's arrays to the device.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "engine/model/transformer.h"
#include "engine/step_batch.h"
#include "kernels/backend.h"

namespace palu {

// Arrays packed one after the other on the host and copied to the device at once. The device buffer
// grows when needed. Used by the engine thread only; the backend must outlive it.
class PackedUpload {
 public:
  explicit PackedUpload(Backend* backend) : backend_(backend) {}

  void Clear() { host_.clear(); }
  // Bytes from the start at which the array will lie, a multiple of 64.
  template <typename T>
  size_t Add(std::span<const T> values) {
    return AddBytes(std::as_bytes(values));
  }
  // The same of count values, get(i) each.
  template <typename Get>
  size_t AddEach(size_t count, Get&& get) {
    using T = decltype(get(size_t{0}));
    const size_t offset = AddSpace(count * sizeof(T));
    T* values = reinterpret_cast<T*>(host_.data() + offset);
    for (size_t i = 0; i < count; ++i) values[i] = get(i);
    return offset;
  }
  // Leaves room for bytes that the device will write.
  size_t AddSpace(size_t bytes);
  // Copies everything added since Clear; the views are valid until the next Upload.
  void Upload();
  // Brings bytes [begin, end) back into the host's copy.
  void Download(size_t begin, size_t end);

  Tensor View(size_t offset, DType dtype, std::initializer_list<int64_t> shape) const {
    return device_.View(dtype, shape, offset);
  }
  template <typename T>
  const T* Host(size_t offset) const {
    return reinterpret_cast<const T*>(host_.data() + offset);
  }
  // Takes the device memory for this many bytes now.
  void Reserve(size_t bytes);
  size_t device_bytes() const { return device_.bytes(); }

 private:
  size_t AddBytes(std::span<const std::byte> bytes);

  Backend* backend_;
  std::vector<std::byte> host_;
  Buffer device_;
};

// The shape that a step is given on the device, at least its own; see StepStaging::Upload.
struct StepShape {
  int sequences = 0;
  int max_blocks = 0;
};

// The inputs of Transformer::Forward at addresses that never change, so that a recorded step can be
// replayed. Used by the engine thread only.
class StepStaging {
 public:
  // max_table_entries: most entries of all block tables of a step and a layer group together.
  StepStaging(Backend* backend, int num_groups, int max_tokens, int max_sequences,
              int64_t max_table_entries);

  // Copies the batch, of as many layer groups, to the device; at most max_tokens + max_sequences
  // rows (a prompt scored token by token, and the choices that share its last token). The views are
  // valid until the next Upload. A step of one token per sequence may be padded to a larger shape:
  // with sequences whose one token is not cached and whose results mean nothing.
  void Upload(const StepBatch& batch, const StepShape& shape);
  void Upload(const StepBatch& batch) { Upload(batch, {batch.num_sequences(), batch.max_blocks}); }

  const StepInputs& inputs() const { return inputs_; }
  const Tensor& logit_rows() const { return logit_rows_; }  // [R] i32: SampleRow::token_index
  int64_t bytes() const { return static_cast<int64_t>(device_.bytes()); }

 private:
  // values, then `filler` up to the shape.
  template <typename T>
  Tensor Place(size_t* offset, size_t capacity, std::span<const T> values, T filler, DType dtype,
               std::initializer_list<int64_t> shape);
  // Returns where they end.
  size_t PlaceTables(size_t offset, const StepBatch& batch, const StepShape& shape);

  Backend* backend_;
  size_t num_groups_, max_tokens_, max_sequences_, max_table_entries_;
  std::vector<std::byte> host_;
  Buffer device_;
  std::vector<int32_t> row_tokens_, cu_seqlens_;  // of the step that is brought there
  StepInputs inputs_;
  Tensor logit_rows_;
};

}  // namespace palu
