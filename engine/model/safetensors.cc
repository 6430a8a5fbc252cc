#include "engine/model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "engine/model/json_file.h"
#include "engine/status.h"

namespace palu {
namespace {

// The format's own limit.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
// Name → {dtype, shape, data_offsets} → numbers.
constexpr int kHeaderDepth = 4;

[[noreturn]] void FailTensor(const std::string& path, const std::string& name,
                             const std::string& found, const std::string& expected) {
  throw LoadError(path + ": tensor \"" + name + "\": found " + found + ", expected " + expected);
}

SafetensorsEntry ParseEntry(const std::string& name, const Json& value, const std::string& path,
                            std::span<const std::byte> data) {
  const JsonObject object(value, path, name);
  SafetensorsEntry entry;
  entry.file = path;
  entry.dtype = object.String("dtype");
  const size_t element = SafetensorsDtypeBytes(entry.dtype);
  if (element == 0) {
    object.Fail("dtype",
                "BOOL, U8, I8, F8_E4M3, F8_E5M2, I16, U16, F16, BF16, I32, U32, F32, "
                "F64, I64 or U64");
  }
  entry.shape = object.Ints("shape", 0, INT64_MAX);
  uint64_t bytes = element;
  for (const int64_t extent : entry.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes)) {
      object.Fail("shape", "a product that fits in 64 bits");
    }
  }
  const auto offsets = object.Ints("data_offsets", 0, INT64_MAX);
  if (offsets.size() != 2) object.Fail("data_offsets", "two numbers: begin and end");
  const auto begin = static_cast<uint64_t>(offsets[0]), end = static_cast<uint64_t>(offsets[1]);
  if (begin > end || end > data.size()) {
    object.Fail("data_offsets", "0 <= begin <= end <= " + std::to_string(data.size()) +
                                    ", the bytes after the header (is the file truncated?)");
  }
  if (end - begin != bytes) {
    FailTensor(
        path, name, std::to_string(end - begin) + " bytes",
        std::to_string(bytes) + " bytes (" + entry.dtype + " " + ShapeString(entry.shape) + ")");
  }
  entry.data = data.subspan(begin, bytes);
  return entry;
}

// The format wants the data to be covered without gap or overlap.
void CheckCoverage(const SafetensorsMap& entries, const std::string& path,
                   std::span<const std::byte> data) {
  std::vector<const SafetensorsMap::value_type*> order;
  for (const auto& item : entries) order.push_back(&item);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.data.data(), a->second.data.size()) <
           std::pair(b->second.data.data(), b->second.data.size());
  });
  const std::byte* covered = data.data();
  for (const auto* item : order) {
    const std::byte* begin = item->second.data.data();
    if (begin != covered) {
      FailTensor(path, item->first,
                 "data_offsets starting at byte " + std::to_string(begin - data.data()),
                 "byte " + std::to_string(covered - data.data()) +
                     (begin < covered ? ": it overlaps the tensor before it"
                                      : ": there is a gap before it"));
    }
    covered += item->second.data.size();
  }
  if (covered != data.data() + data.size()) {
    throw LoadError(path + ": found " + std::to_string(data.size()) +
                    " bytes after the header, expected " + std::to_string(covered - data.data()) +
                    ", where the last tensor ends");
  }
}

}  // namespace

size_t SafetensorsDtypeBytes(const std::string& dtype) {
  static const std::map<std::string, size_t> bytes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
      {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
      {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
  const auto it = bytes.find(dtype);
  return it == bytes.end() ? 0 : it->second;
}

std::string ShapeString(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

SafetensorsMap ParseSafetensors(std::span<const std::byte> file, const std::string& path,
                                std::map<std::string, std::string>* metadata) {
  uint64_t header_bytes = 0;
  if (file.size() < sizeof(header_bytes)) {
    throw LoadError(path + ": found " + std::to_string(file.size()) +
                    " bytes, expected at least 8, the header's length");
  }
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | static_cast<uint8_t>(file[i]);
  const uint64_t most = std::min<uint64_t>(file.size() - sizeof(header_bytes), kMaxHeaderBytes);
  if (header_bytes > most) {
    throw LoadError(path + ": header length: found " + std::to_string(header_bytes) +
                    " bytes, expected at most " + std::to_string(most));
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, header_bytes);
  const Json header = ParseJson(text, path, kHeaderDepth, /*unique_keys=*/true);
  const JsonObject object(header, path);
  const auto data = file.subspan(8 + header_bytes);
  SafetensorsMap entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      const JsonObject strings(value, path, name);
      for (const auto& item : value.items()) {
        const std::string read = strings.String(item.key());
        if (metadata != nullptr) (*metadata)[item.key()] = read;
      }
      continue;
    }
    entries.emplace(name, ParseEntry(name, value, path, data));
  }
  CheckCoverage(entries, path, data);
  return entries;
}

// A whole file mapped read-only; unmapped on destruction.
class Safetensors::Mapping {
 public:
  explicit Mapping(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw LoadError(path + ": cannot be opened: " + std::strerror(errno));
    struct stat info {};
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
      close(fd);
      throw LoadError(path + ": expected a regular file");
    }
    size_ = static_cast<size_t>(info.st_size);
    if (size_ > 0) data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    const int error = errno;
    close(fd);
    if (data_ == MAP_FAILED) throw LoadError(path + ": cannot be mapped: " + std::strerror(error));
    if (size_ > 0) madvise(data_, size_, MADV_WILLNEED);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (size_ > 0) munmap(data_, size_);
  }
  std::span<const std::byte> bytes() const { return {static_cast<std::byte*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

Safetensors::Safetensors(std::string path) : path_(std::move(path)) {}

SafetensorsMap Safetensors::Map(const std::string& path) {
  const auto mapping = std::make_shared<const Mapping>(path);
  mappings_.push_back(mapping);
  mapped_files_.push_back(mapping->bytes());
  return ParseSafetensors(mapping->bytes(), path, &metadata_);
}

void Safetensors::Release(std::span<const std::byte> data) const {
  for (const std::span<const std::byte> file : mapped_files_) {
    const std::byte* file_end = file.data() + file.size();
    if (data.data() < file.data() || data.data() + data.size() > file_end) continue;
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto start = reinterpret_cast<uintptr_t>(data.data());
    const uintptr_t begin = (start + page - 1) / page * page;
    const uintptr_t end = (start + data.size()) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }
}

Safetensors Safetensors::FromMemory(const std::string& path, SafetensorsMap entries,
                                    std::shared_ptr<const void> memory) {
  Safetensors result(path);
  result.entries_ = std::move(entries);
  result.mappings_.push_back(std::move(memory));
  return result;
}

Safetensors Safetensors::OpenFile(const std::string& path) {
  Safetensors result(path);
  result.entries_ = result.Map(path);
  return result;
}

Safetensors Safetensors::OpenDirectory(const std::string& directory) {
  const std::string single = directory + "/model.safetensors";
  const std::string index = single + ".index.json";
  if (!std::filesystem::exists(index)) {
    if (std::filesystem::exists(single)) return OpenFile(single);
    throw LoadError(directory +
                    ": found neither model.safetensors nor "
                    "model.safetensors.index.json, expected one of them");
  }
  const Json root = ParseJson(ReadFile(index), index);
  const JsonObject object(root, index);
  const auto weight_map = object.Object("weight_map");
  if (!weight_map) object.Fail("weight_map", "an object of tensor name: file name");
  Safetensors result(index);
  std::map<std::string, SafetensorsMap> shards;
  for (const auto& item : root.at("weight_map").items()) {
    const std::string& name = item.key();
    const std::string shard = weight_map->String(name);
    if (shard.empty() || shard.find('/') != std::string::npos || shard[0] == '.') {
      weight_map->Fail(name, "a file name without a directory");
    }
    auto it = shards.find(shard);
    if (it == shards.end()) it = shards.emplace(shard, result.Map(directory + "/" + shard)).first;
    const auto entry = it->second.find(name);
    if (entry == it->second.end()) {
      FailTensor(directory + "/" + shard, name, "nothing", "it here, as " + index + " says");
    }
    result.entries_.emplace(name, entry->second);
  }
  return result;
}

const SafetensorsEntry* Safetensors::Find(const std::string& name) const {
  const auto it = entries_.find(name);
  return it == entries_.end() ? nullptr : &it->second;
}

}  // namespace palu
