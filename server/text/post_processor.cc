#include "server/text/post_processor.h"

#include <algorithm>
#include <array>

namespace palu {
namespace {

void AppendSpecial(const JsonReader& item, const JsonReader& tokens, int vocab_size,
                   std::vector<int32_t>* ids) {
  const std::string name = item.String("id");
  const JsonReader list = tokens.At(name.c_str()).At("ids").Array();
  for (size_t i = 0; i < list.size(); ++i) {
    ids->push_back(static_cast<int32_t>(list.At(i).Int(0, vocab_size - 1)));
  }
}

void ReadTemplate(const JsonReader& spec, int vocab_size, PostProcessor* out) {
  const JsonReader items = spec.At("single").Array();
  bool seen_sequence = false;
  for (size_t i = 0; i < items.size(); ++i) {
    const JsonReader item = items.At(i);
    if (item.Has("Sequence")) {
      if (seen_sequence) item.FailValue("the sequence once");
      seen_sequence = true;
    } else {
      AppendSpecial(item.At("SpecialToken"), spec.At("special_tokens"), vocab_size,
                    seen_sequence ? &out->suffix : &out->prefix);
    }
  }
  if (!seen_sequence) items.FailValue("a template with the sequence in it");
}

void Read(const JsonReader& spec, int vocab_size, int depth, PostProcessor* out) {
  spec.CheckDepth(depth);
  const std::string type = spec.String("type");
  if (type == "Sequence") {
    const JsonReader list = spec.At("processors").Array();
    for (size_t i = 0; i < list.size(); ++i) Read(list.At(i), vocab_size, depth + 1, out);
  } else if (type == "TemplateProcessing") {
    PostProcessor inner;
    ReadTemplate(spec, vocab_size, &inner);
    out->prefix.insert(out->prefix.begin(), inner.prefix.begin(), inner.prefix.end());
    out->suffix.insert(out->suffix.end(), inner.suffix.begin(), inner.suffix.end());
  } else if (type != "ByteLevel") {  // which moves offsets only
    spec.At("type").FailValue("TemplateProcessing, ByteLevel or Sequence");
  }
}

bool IsLlamaFamily(const std::string& tokenizer_class) {
  static constexpr std::array<const char*, 6> kClasses = {
      "LlamaTokenizer",         "LlamaTokenizerFast", "CodeLlamaTokenizer",
      "CodeLlamaTokenizerFast", "GemmaTokenizer",     "GemmaTokenizerFast",
  };
  return std::find(kClasses.begin(), kClasses.end(), tokenizer_class) != kClasses.end();
}

}  // namespace

std::vector<int32_t> PostProcessor::Apply(std::vector<int32_t> ids) const {
  ids.insert(ids.begin(), prefix.begin(), prefix.end());
  ids.insert(ids.end(), suffix.begin(), suffix.end());
  return ids;
}

PostProcessor ReadPostProcessor(const JsonReader& spec, int vocab_size) {
  PostProcessor out;
  if (!spec.is_null()) Read(spec, vocab_size, 0, &out);
  return out;
}

std::string SpecialTokenContent(const JsonReader& config, const char* key) {
  if (!config.Has(key)) return {};
  const JsonReader token = config.At(key);
  return token.value().is_object() ? token.String("content") : token.String();
}

void ApplyTokenizerConfig(const JsonReader& config,
                          const std::function<int32_t(const std::string&)>& find,
                          PostProcessor* post_processor) {
  const bool llama = IsLlamaFamily(config.StringOr("tokenizer_class", ""));
  const auto apply = [&](const char* flag, const char* token_key, bool fallback,
                         std::vector<int32_t>* ids) {
    if (!llama && !config.Has(flag)) return;
    ids->clear();
    if (!config.BoolOr(flag, fallback)) return;
    const std::string content = SpecialTokenContent(config, token_key);
    if (content.empty() && !config.Has(flag)) return;
    const int32_t id = content.empty() ? -1 : find(content);
    if (id < 0) {
      config.At(flag).Fail("true with " + std::string(token_key) + " \"" + content + "\"",
                           "a " + std::string(token_key) + " of the vocabulary");
    }
    ids->push_back(id);
  };
  apply("add_bos_token", "bos_token", /*fallback=*/true, &post_processor->prefix);
  apply("add_eos_token", "eos_token", /*fallback=*/false, &post_processor->suffix);
}

}  // namespace palu
