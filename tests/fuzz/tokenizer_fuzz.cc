// A tokenizer.json of any shape, up to a NUL byte, and a text for it behind: loads or throws a
// LoadError; what loads encodes and decodes, streamed as at once.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "engine/status.h"
#include "server/text/json_reader.h"
#include "server/text/json_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 1 << 15) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0'), size);
  const std::string_view text = end < size ? input.substr(end + 1) : "Hello, 世界 <s>x</s>";
  const nlohmann::json document = nlohmann::json::parse(input.substr(0, end), nullptr, false);
  if (document.is_discarded()) return 0;
  const nlohmann::json none;
  const std::string file = "tokenizer.json";
  try {
    const palu::JsonTokenizer tokenizer(palu::JsonReader(document, file),
                                        palu::JsonReader(none, file));
    std::vector<int32_t> ids = tokenizer.Encode(text, true);
    for (size_t i = 0; i < text.size(); ++i) ids.push_back(static_cast<unsigned char>(text[i]));
    for (const bool skip_special : {true, false}) {
      std::string streamed;
      const auto stream = tokenizer.NewDecodeStream(skip_special);
      for (const int32_t id : ids) stream->Push(id, &streamed);
      stream->Finish(&streamed);
      if (streamed != tokenizer.Decode(ids, skip_special)) std::abort();
    }
  } catch (const palu::LoadError&) {
  }
  return 0;
}
