// Token ids of one stream to text, as they come.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/text/tokenizer.h"

namespace palu {

// The text side of one choice of one request. Push() gives the text that has become certain: always
// whole code points; bytes that can still become one are held back, bytes that cannot come out as
// U+FFFD. All pieces together equal Tokenizer::Decode of all ids. Amortised O(1) a token. Owned by
// one stream, used by one thread at a time; the tokenizer must outlive it.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special = true);

  std::string Push(int32_t id);
  std::string Push(const std::vector<int32_t>& ids);
  // What was held back. No Push after it.
  std::string Finish();

 private:
  std::unique_ptr<DecodeStream> stream_;
};

}  // namespace palu
