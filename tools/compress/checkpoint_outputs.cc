#include "tools/compress/checkpoint_outputs.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "engine/model/host_floats.h"
#include "engine/model/packed_weights.h"
#include "kernels/backend.h"
#include "tools/compress/linalg.h"

namespace palu {
namespace {

namespace fs = std::filesystem;

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::vector<std::byte> Gather(const CheckpointOutput& output) {
  std::vector<std::byte> bytes;
  output.write([&](std::span<const std::byte> part) {
    bytes.insert(bytes.end(), part.begin(), part.end());
  });
  return bytes;
}

// Codes of a matrix in place of its numbers.
CheckpointOutput PackedOutput(CheckpointOutput matrix, WeightFormat format,
                              const std::shared_ptr<Backend>& backend) {
  const std::vector<int64_t> shape = matrix.declaration.shape;
  const std::string name = matrix.declaration.name;
  const std::optional<DType> dtype = FloatDType(matrix.declaration.dtype);
  if (!dtype) {
    throw CompressError(name + ": dtype " + matrix.declaration.dtype +
                        ", expected BF16, F16 or F32 for --weights");
  }
  CheckpointOutput output;
  output.declaration = {PackedName(name, format), "U8", PackedShape(format, shape[0], shape[1])};
  const auto lines = output.declaration.shape;
  output.write = [=, matrix = std::move(matrix)](const ByteSink& sink) {
    std::vector<std::byte> numbers = Gather(matrix);
    for (const float number : ToFloats(numbers, *dtype)) {
      if (!std::isfinite(number)) throw CompressError(name + ": not finite (NaN or infinity)");
    }
    const Buffer packed =
        backend->PackWeight(Tensor(numbers.data(), *dtype, {shape[0], shape[1]}), format);
    sink({static_cast<const std::byte*>(packed.data()), packed.bytes()});
    const std::vector<std::byte> rest(static_cast<size_t>(lines[0] * lines[1]) - packed.bytes());
    if (!rest.empty()) sink(rest);
  };
  return output;
}

// Halves of a fused matrix of the MLP, whose blocks of codes need not end where a half does.
void SplitGateUp(const Safetensors& files, std::vector<CheckpointOutput>* outputs) {
  const std::string fused = "gate_up_proj.weight";
  std::vector<CheckpointOutput> parts;
  std::erase_if(*outputs, [&](const CheckpointOutput& output) {
    const std::string& name = output.declaration.name;
    const SafetensorsEntry* entry = EndsWith(name, fused) ? files.Find(name) : nullptr;
    if (entry == nullptr || entry->shape.size() != 2) return false;
    const std::string base = name.substr(0, name.size() - fused.size());
    const int64_t rows = entry->shape[0] / 2;
    parts.push_back(RowsOf(base + "gate_proj.weight", *entry, 0, rows));
    parts.push_back(RowsOf(base + "up_proj.weight", *entry, rows, rows));
    return true;
  });
  std::move(parts.begin(), parts.end(), std::back_inserter(*outputs));
}

// Where the embedding is the output layer too, codes of it serve as the latter.
void AddTiedOutput(const Safetensors& files, std::vector<CheckpointOutput>* outputs) {
  const std::string head = "lm_head.weight";
  std::erase_if(*outputs, [&](const CheckpointOutput& output) {
    return EndsWith(output.declaration.name, head);
  });
  for (const auto& [name, entry] : files.entries()) {
    if (EndsWith(name, "embed_tokens.weight")) {
      outputs->push_back(CopyOf(head, entry));
      return;
    }
  }
}

}  // namespace

CheckpointOutput CopyOf(const std::string& name, const SafetensorsEntry& entry) {
  return {{name, entry.dtype, entry.shape}, [&entry](const ByteSink& sink) { sink(entry.data); }};
}

CheckpointOutput RowsOf(const std::string& name, const SafetensorsEntry& entry, int64_t first,
                        int64_t rows) {
  const size_t row_bytes = entry.data.size() / static_cast<size_t>(entry.shape[0]);
  return {{name, entry.dtype, {rows, entry.shape[1]}},
          [&entry, first, rows, row_bytes](const ByteSink& sink) {
            sink(entry.data.subspan(static_cast<size_t>(first) * row_bytes,
                                    static_cast<size_t>(rows) * row_bytes));
          }};
}

std::vector<CheckpointOutput> Quantized(std::vector<CheckpointOutput> outputs,
                                        const Safetensors& files, const ModelConfig& config,
                                        WeightFormat format, const std::set<std::string>& kept,
                                        int threads) {
  if (config.fused_gate_up) SplitGateUp(files, &outputs);
  if (config.tie_word_embeddings) AddTiedOutput(files, &outputs);
  BackendOptions options;
  options.device = "cpu";
  options.cpu_threads = threads;
  const std::shared_ptr<Backend> backend = CreateBackend(options);
  std::vector<CheckpointOutput> codes, rest;
  for (CheckpointOutput& output : outputs) {
    const std::string& name = output.declaration.name;
    const bool head = EndsWith(name, "lm_head.weight");
    if (IsPackable(name, output.declaration.shape) && kept.count(name) == 0) {
      codes.push_back(
          PackedOutput(std::move(output), head ? kOutputWeightFormat : format, backend));
    } else if (!head || !config.tie_word_embeddings) {
      rest.push_back(std::move(output));
    }
  }
  std::move(rest.begin(), rest.end(), std::back_inserter(codes));
  return codes;
}

void WriteOutputs(const std::vector<CheckpointOutput>& outputs, const std::string& directory) {
  std::vector<SafetensorsDeclaration> declarations;
  for (const CheckpointOutput& output : outputs) declarations.push_back(output.declaration);
  SafetensorsWriter writer(directory + "/model.safetensors", declarations);
  const ByteSink sink = [&](std::span<const std::byte> bytes) { writer.Write(bytes); };
  for (const CheckpointOutput& output : outputs) output.write(sink);
  writer.Finish();
}

void CopyOtherFiles(const std::string& source, const std::string& directory) {
  for (const auto& entry : fs::directory_iterator(source)) {
    const std::string name = entry.path().filename().string();
    const bool weights = EndsWith(name, ".safetensors") || EndsWith(name, ".bin") ||
                         EndsWith(name, ".safetensors.index.json") || EndsWith(name, ".pth") ||
                         EndsWith(name, ".gguf");
    if (!entry.is_regular_file() || weights) continue;
    std::error_code error;
    fs::copy_file(entry.path(), directory + "/" + name, fs::copy_options::overwrite_existing,
                  error);
    if (error) throw CompressError(directory + "/" + name + ": " + error.message());
    fs::permissions(directory + "/" + name, fs::perms::owner_write, fs::perm_options::add, error);
  }
}

}  // namespace palu
