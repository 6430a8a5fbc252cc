// Writing safetensors files one tensor at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace palu {

// A tensor to be written.
struct SafetensorsDeclaration {
  std::string name;
  std::string dtype;  // BF16, F16, F32, …
  std::vector<int64_t> shape;
};

// Streams a file: the header first, then the tensors in the order of their declarations, in as many
// pieces as the caller likes. The file appears under its name in Finish; until then it is
// "<path>.part", removed on destruction. Throws LoadError when the disk refuses. Not thread-safe.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::string& path, const std::vector<SafetensorsDeclaration>& tensors,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;
  ~SafetensorsWriter();

  // The next bytes of the data section.
  void Write(std::span<const std::byte> bytes);
  // Closes and renames. All declared bytes must have been written.
  void Finish();

 private:
  std::string path_;
  std::ofstream out_;
  uint64_t expected_bytes_ = 0, written_bytes_ = 0;
  bool finished_ = false;
};

}  // namespace palu
