#include "engine/model/safetensors_writer.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/model/safetensors.h"
#include "engine/status.h"
#include "kernels/check.h"

namespace palu {

SafetensorsWriter::SafetensorsWriter(const std::string& path,
                                     const std::vector<SafetensorsDeclaration>& tensors,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), out_(path + ".part", std::ios::binary | std::ios::trunc) {
  if (!out_) throw LoadError(path + ".part: cannot be opened for writing");
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  for (const SafetensorsDeclaration& tensor : tensors) {
    uint64_t bytes = SafetensorsDtypeBytes(tensor.dtype);
    PALU_CHECK(bytes > 0 && !header.contains(tensor.name));
    for (const int64_t extent : tensor.shape) bytes *= static_cast<uint64_t>(extent);
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {expected_bytes_, expected_bytes_ + bytes}}};
    expected_bytes_ += bytes;
  }
  std::string text = tensors.empty() && metadata.empty() ? "{}" : header.dump();
  // Data starts at a multiple of 64 bytes, so that mapped rows can be read with aligned loads.
  while ((text.size() + 8) % 64 != 0) text += ' ';
  std::string length;
  for (int i = 0; i < 8; ++i) length += static_cast<char>(text.size() >> 8 * i & 0xff);
  out_ << length << text;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (finished_) return;
  out_.close();
  std::error_code ignored;
  std::filesystem::remove(path_ + ".part", ignored);
}

void SafetensorsWriter::Write(std::span<const std::byte> bytes) {
  written_bytes_ += bytes.size();
  PALU_CHECK(written_bytes_ <= expected_bytes_);
  out_.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  if (!out_) throw LoadError(path_ + ".part: cannot be written (is the disk full?)");
}

void SafetensorsWriter::Finish() {
  PALU_CHECK(written_bytes_ == expected_bytes_);
  out_.close();
  if (!out_) throw LoadError(path_ + ".part: cannot be written (is the disk full?)");
  std::error_code error;
  std::filesystem::rename(path_ + ".part", path_, error);
  if (error) throw LoadError(path_ + ": cannot be renamed from .part: " + error.message());
  finished_ = true;
}

}  // namespace palu
