// What a tokenizer adds around a sequence's ids.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "server/text/json_reader.h"

namespace palu {

// Ids before and after the sequence. Plain data.
struct PostProcessor {
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;

  std::vector<int32_t> Apply(std::vector<int32_t> ids) const;
};

// spec: the file's "post_processor" (TemplateProcessing, ByteLevel, a Sequence of them, or null).
// vocab_size: ids must be below. Throws LoadError.
PostProcessor ReadPostProcessor(const JsonReader& spec, int vocab_size);

// Hugging Face's classes set bos and eos from tokenizer_config.json: those of the Llama family
// always (bos unless told otherwise), others where add_bos_token or add_eos_token stands there.
// find: a token's id, or -1. Throws LoadError for a bos_token that should be added and is unknown.
void ApplyTokenizerConfig(const JsonReader& config,
                          const std::function<int32_t(const std::string&)>& find,
                          PostProcessor* post_processor);

// bos_token and the like: a string, or an added token's object; empty when absent.
std::string SpecialTokenContent(const JsonReader& config, const char* key);

}  // namespace palu
