#include "server/text/detokenizer.h"

namespace palu {

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special)
    : stream_(tokenizer.NewDecodeStream(skip_special)) {}

std::string Detokenizer::Push(int32_t id) {
  std::string text;
  stream_->Push(id, &text);
  return text;
}

std::string Detokenizer::Push(const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) stream_->Push(id, &text);
  return text;
}

std::string Detokenizer::Finish() {
  std::string text;
  stream_->Finish(&text);
  return text;
}

}  // namespace palu
