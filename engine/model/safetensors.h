// Memory-mapped reading of safetensors files (https://github.com/huggingface/safetensors#format).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace palu {

// One tensor of a file, still in the file's bytes.
struct SafetensorsEntry {
  std::string dtype;           // as in the file: BF16, F16, F32, …
  std::vector<int64_t> shape;  // may be empty (a scalar)
  std::span<const std::byte> data;
  std::string file;  // for messages
};

using SafetensorsMap = std::map<std::string, SafetensorsEntry>;

// Bytes of one element of a safetensors dtype, 0 when unknown.
size_t SafetensorsDtypeBytes(const std::string& dtype);

// "[2, 3]".
std::string ShapeString(std::span<const int64_t> shape);

// Reads the header of file (its whole content) and checks everything it says: header length, JSON,
// dtypes, shape × dtype = bytes, offsets in range, no overlap, no gap, no duplicate name. The
// entries point into file. metadata (may be null) gets the __metadata__ strings. Throws LoadError.
SafetensorsMap ParseSafetensors(std::span<const std::byte> file, const std::string& path,
                                std::map<std::string, std::string>* metadata = nullptr);

// The tensors of a checkpoint; owns the mappings that the entries point into. Immutable after
// opening, thread-safe.
class Safetensors {
 public:
  // One file. Throws LoadError.
  static Safetensors OpenFile(const std::string& path);
  // model.safetensors, or the shards named by model.safetensors.index.json. Throws LoadError.
  static Safetensors OpenDirectory(const std::string& directory);
  // Entries that point into memory, which is kept; path is for messages.
  static Safetensors FromMemory(const std::string& path, SafetensorsMap entries,
                                std::shared_ptr<const void> memory);

  Safetensors(Safetensors&&) = default;
  Safetensors& operator=(Safetensors&&) = default;

  const SafetensorsEntry* Find(const std::string& name) const;  // nullptr when absent
  const SafetensorsMap& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // What to name in messages: the file, or the index of a sharded checkpoint.
  const std::string& path() const { return path_; }
  // Gives back the memory of whole pages within data that are mapped from a file; they are read
  // again if they are looked at again. Memory that is no mapping of a file stays as it is.
  void Release(std::span<const std::byte> data) const;

 private:
  class Mapping;
  explicit Safetensors(std::string path);
  SafetensorsMap Map(const std::string& path);

  std::string path_;
  std::vector<std::shared_ptr<const void>> mappings_;
  std::vector<std::span<const std::byte>> mapped_files_;
  SafetensorsMap entries_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace palu
