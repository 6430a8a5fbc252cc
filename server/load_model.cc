// From configuration to a model that can be asked.
#include <ctime>
#include <filesystem>
#include <set>
#include <sstream>
#include <string>

#include "server/app.h"
#include "server/text/json_reader.h"

namespace palu {
namespace {

std::string ServedName(const ModelOptions& options) {
  if (!options.served_name.empty()) return options.served_name;
  std::filesystem::path path = std::filesystem::path(options.path).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

// "bf16", or "int4,bf16" when layers differ.
std::string CacheFormat(const CacheReport& report) {
  std::set<std::string> names;
  for (const LayerSpec& layer : report.layers) {
    names.insert(Name(layer.key.format));
    names.insert(Name(layer.value.format));
  }
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ",") + name;
  return text;
}

void CheckTokenizer(const ModelOptions& options, const Tokenizer& tokenizer, int vocab_size) {
  if (tokenizer.vocab_size() <= vocab_size) return;
  throw LoadError(options.path + ": the tokenizer has ids up to " +
                  std::to_string(tokenizer.vocab_size() - 1) +
                  ", but config.json says vocab_size " + std::to_string(vocab_size) +
                  "; expected a tokenizer of this model");
}

// What sentence-transformers checkpoints say, where nobody has set it.
Pooling DefaultPooling(const ModelOptions& model) {
  if (model.pooling != "auto") return model.pooling == "mean" ? Pooling::kMean : Pooling::kLast;
  const std::string path = model.path + "/1_Pooling/config.json";
  if (!std::filesystem::exists(path)) return Pooling::kLast;
  const nlohmann::json json = ReadJsonFile(path);
  return JsonReader(json, path).BoolOr("pooling_mode_mean_tokens", false) ? Pooling::kMean
                                                                          : Pooling::kLast;
}

structured::ToolFormat ToolFormatOf(const std::string& setting, const ChatTemplate* chat_template) {
  if (setting == "llama3") return structured::ToolFormat::kLlama3;
  if (setting == "hermes") return structured::ToolFormat::kHermes;
  if (setting == "mistral") return structured::ToolFormat::kMistral;
  if (setting == "json" || chat_template == nullptr) return structured::ToolFormat::kJson;
  return structured::ToolFormatOfTemplate(chat_template->source());
}

std::string Bytes(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(units)) {
    bytes /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.2f %s", bytes, units[unit]);
  return text;
}

std::string Fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

}  // namespace

std::unique_ptr<LoadedModel> LoadModel(const ServerConfig& config) {
  auto loaded = std::make_unique<LoadedModel>();
  // The small files first, so that mistakes in them show at once.
  loaded->tokenizer = LoadTokenizer(config.model.path);
  loaded->chat_template = ChatTemplate::Load(config.model.path, config.model.chat_template);
  loaded->runner = ModelRunner::Load(config.model, config.engine, config.cache);
  const ModelConfig& model = loaded->runner->config();
  const EngineLimits limits = loaded->runner->limits();
  CheckTokenizer(config.model, *loaded->tokenizer, model.vocab_size);
  loaded->structured = std::make_unique<structured::StructuredOutput>(
      *loaded->tokenizer, limits.eos_token_ids,
      ToolFormatOf(config.model.tool_parser, loaded->chat_template.get()));
  loaded->engine = std::make_unique<Engine>(config.engine, limits, loaded->runner.get());

  ModelInfo& info = loaded->info;
  info.name = ServedName(config.model);
  info.path = config.model.path;
  info.model_type = model.model_type;
  info.backend = loaded->runner->backend().name() + " (" + loaded->runner->backend().isa() + ")";
  info.cache = loaded->runner->cache_report();
  info.cache_format = CacheFormat(info.cache);
  info.created = static_cast<int64_t>(std::time(nullptr));
  info.max_context_tokens = limits.max_context_tokens;
  info.vocab_size = limits.vocab_size;
  info.hidden_size = model.hidden_size;
  info.pooling = DefaultPooling(config.model);
  info.prefix_caching = config.engine.prefix_caching;
  return loaded;
}

std::string DescribeModel(const LoadedModel& model) {
  const ModelInfo& info = model.info;
  const CacheReport& cache = info.cache;
  std::ostringstream text;
  text << "serving\n"
       << "  model        " << info.name << " (" << info.model_type << ", context "
       << info.max_context_tokens << " tokens) from " << info.path << "\n"
       << "  backend      " << info.backend << "\n"
       << "  weights      " << Bytes(static_cast<double>(cache.weights_bytes)) << " ("
       << cache.weights_bytes << " bytes)\n"
       << "  KV pool      " << Bytes(static_cast<double>(cache.capacity_bytes)) << " = "
       << cache.capacity_tokens << " tokens = " << Fixed(cache.full_length_requests, 1)
       << " full-length requests\n"
       << "  KV per token " << Fixed(cache.bytes_per_token, 1) << " bytes (" << info.cache_format
       << ") against " << Fixed(cache.bytes_per_token_uncompressed, 1) << " uncompressed, "
       << Fixed(cache.bytes_per_token_uncompressed / cache.bytes_per_token, 2) << "x smaller";
  if (cache.group_windows.back() > 0) {
    text << "\n               " << Fixed(cache.bytes_per_token_beyond_windows, 1)
         << " bytes once the sliding window of " << cache.group_windows.back()
         << " tokens has passed it";
  }
  return text.str();
}

}  // namespace palu
