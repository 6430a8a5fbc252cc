// Text files to windows of token ids, by named recipe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/model_config.h"
#include "server/text/tokenizer.h"

namespace palu {

// How a text becomes windows. Windows do not overlap unless stride < window; a rest shorter than a
// window is left out. The loss of a window is the mean over its last window - 1 tokens.
struct Recipe {
  // Documents (the text between lines "<|endoftext|>", outer white space removed) each as
  // <bos> document <eos>, concatenated. Otherwise: the whole text as one stream that begins with
  // <bos>.
  bool documents = true;
  int window = 1024;
  int stride = 1024;
};

// "documents-N" (documents-1024: the goldens' recipe) or "stream-N" (stream-2048 and stream-4096:
// the Palu paper's, arXiv 2407.21118). Throws std::runtime_error naming what is expected.
Recipe ParseRecipe(const std::string& name);

// One id sequence. <bos> and <eos> are the model's first ones, left out where it has none.
std::vector<int32_t> TokenizeText(std::string_view text, const Tokenizer& tokenizer,
                                  const ModelConfig& config, bool documents);

std::vector<std::vector<int32_t>> CutWindows(const std::vector<int32_t>& ids, int window,
                                             int stride);

// Reads files in order. Throws LoadError when one cannot be read.
std::vector<int32_t> TokenizeFiles(const std::vector<std::string>& files,
                                   const Tokenizer& tokenizer, const ModelConfig& config,
                                   bool documents);

}  // namespace palu
