#include "server/text/tokenizer.h"

#include <filesystem>

#include "server/text/json_reader.h"
#include "server/text/json_tokenizer.h"
#include "server/text/utf8.h"

namespace palu {
namespace {

// For tokenizers that have no rules of their own.
class PlainStream : public DecodeStream {
 public:
  PlainStream(const Tokenizer& tokenizer, bool skip_special)
      : tokenizer_(tokenizer),
        skip_special_(skip_special),
        strip_(tokenizer.strips_leading_space()),
        utf8_(Utf8Repair::kPerPrefix) {}

  void Push(int32_t id, std::string* out) override {
    if (skip_special_ && tokenizer_.is_special(id)) return;
    std::string bytes = tokenizer_.TokenBytes(id);
    if (bytes.empty()) return;
    if (strip_ && bytes[0] == ' ') bytes.erase(0, 1);
    strip_ = false;
    utf8_.Push(bytes, out);
  }
  void Finish(std::string* out) override { utf8_.Finish(out); }

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  bool strip_;
  Utf8Stream utf8_;
};

}  // namespace

std::unique_ptr<DecodeStream> Tokenizer::NewDecodeStream(bool skip_special) const {
  return std::make_unique<PlainStream>(*this, skip_special);
}

std::unique_ptr<Tokenizer> LoadJsonTokenizer(const std::string& path,
                                             const std::string& config_path) {
  const nlohmann::json tokenizer = ReadJsonFile(path);
  const bool configured = !config_path.empty() && std::filesystem::exists(config_path);
  const nlohmann::json config = configured ? ReadJsonFile(config_path) : nlohmann::json();
  return std::make_unique<JsonTokenizer>(JsonReader(tokenizer, path),
                                         JsonReader(config, config_path));
}

std::unique_ptr<Tokenizer> LoadTokenizer(const std::string& directory) {
  const std::filesystem::path base(directory);
  const std::string config = (base / "tokenizer_config.json").string();
  if (std::filesystem::exists(base / "tokenizer.json")) {
    return LoadJsonTokenizer((base / "tokenizer.json").string(), config);
  }
  if (std::filesystem::exists(base / "tokenizer.model")) {
    return LoadSentencePieceTokenizer((base / "tokenizer.model").string(), config);
  }
  throw LoadError(directory + ": found no tokenizer, expected tokenizer.json or tokenizer.model");
}

}  // namespace palu
