// Regular expressions and the grammars that clients write.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/check.h"
#include "server/structured/ebnf_parser.h"
#include "server/structured/regex_parser.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 512) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  using palu::structured::RegexMode;
  for (const RegexMode mode : {RegexMode::kSearch, RegexMode::kFull}) {
    const auto dfa = palu::structured::CompileRegex(text, mode);
    if (!dfa) PALU_CHECK(!dfa.error().message.empty());
  }
  palu::structured::GrammarBuilder builder;
  const auto rule = palu::structured::AddEbnf(text, &builder);
  if (rule) {
    const auto grammar = builder.Finish(*rule);
    if (!grammar) PALU_CHECK(!grammar.error().message.empty());
  }
  return 0;
}
