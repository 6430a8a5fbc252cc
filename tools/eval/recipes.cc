#include "tools/eval/recipes.h"

#include <charconv>
#include <stdexcept>

#include "engine/model/json_file.h"

namespace palu {
namespace {

constexpr std::string_view kSeparator = "<|endoftext|>";
constexpr size_t kMaxTextBytes = size_t{1} << 32;

std::string_view Strip(std::string_view text) {
  constexpr std::string_view kWhite = " \t\r\n\f\v";
  const size_t first = text.find_first_not_of(kWhite);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kWhite) - first + 1);
}

}  // namespace

Recipe ParseRecipe(const std::string& name) {
  Recipe recipe;
  const size_t dash = name.find('-');
  const std::string kind = name.substr(0, dash);
  const char* begin = name.data() + (dash == std::string::npos ? name.size() : dash + 1);
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(begin, end, recipe.window);
  if ((kind != "documents" && kind != "stream") || error != std::errc() || stop != end ||
      recipe.window < 2) {
    throw std::runtime_error("recipe: found \"" + name +
                             "\", expected documents-N or stream-N, N tokens a window");
  }
  recipe.documents = kind == "documents";
  recipe.stride = recipe.window;
  return recipe;
}

std::vector<int32_t> TokenizeText(std::string_view text, const Tokenizer& tokenizer,
                                  const ModelConfig& config, bool documents) {
  std::vector<int32_t> ids;
  const auto append = [&](std::string_view part) {
    const std::vector<int32_t> encoded = tokenizer.Encode(part, false);
    ids.insert(ids.end(), encoded.begin(), encoded.end());
  };
  const auto bos = [&] {
    if (!config.bos_token_ids.empty()) ids.push_back(config.bos_token_ids[0]);
  };
  if (!documents) {
    bos();
    append(text);
    return ids;
  }
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(kSeparator, begin), text.size());
    const std::string_view document = Strip(text.substr(begin, end - begin));
    begin = end + kSeparator.size();
    if (document.empty()) continue;
    bos();
    append(document);
    if (!config.eos_token_ids.empty()) ids.push_back(config.eos_token_ids[0]);
  }
  return ids;
}

std::vector<std::vector<int32_t>> CutWindows(const std::vector<int32_t>& ids, int window,
                                             int stride) {
  std::vector<std::vector<int32_t>> windows;
  for (size_t begin = 0; begin + window <= ids.size(); begin += stride) {
    windows.emplace_back(ids.begin() + static_cast<int64_t>(begin),
                         ids.begin() + static_cast<int64_t>(begin + window));
  }
  return windows;
}

std::vector<int32_t> TokenizeFiles(const std::vector<std::string>& files,
                                   const Tokenizer& tokenizer, const ModelConfig& config,
                                   bool documents) {
  std::vector<int32_t> ids;
  for (const std::string& file : files) {
    const std::vector<int32_t> more =
        TokenizeText(ReadFile(file, kMaxTextBytes), tokenizer, config, documents);
    ids.insert(ids.end(), more.begin(), more.end());
  }
  return ids;
}

}  // namespace palu
