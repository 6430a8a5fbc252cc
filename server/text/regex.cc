#include "server/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdexcept>

namespace palu {
namespace {

// Far above what a sane pattern needs on any text, low enough that a bad one ends.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kDepthLimit = 100'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kMaxPatternBytes = 1 << 16;

struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct MatchContextDeleter {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

// Ruby's dialect knows \n alone as a line end.
pcre2_compile_context* CompileContext() {
  static pcre2_compile_context* const context = [] {
    pcre2_compile_context* made = pcre2_compile_context_create(nullptr);
    pcre2_set_newline(made, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(made, 200);
    return made;
  }();
  return context;
}

}  // namespace

Regex::Regex(const std::string& pattern) {
  if (pattern.size() > kMaxPatternBytes) throw std::invalid_argument("pattern is too long");
  const std::string translated = OnigurumaToPcre(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                   translated.size(), kOptions, &error, &offset, CompileContext());
  if (code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    throw std::invalid_argument(std::string(reinterpret_cast<const char*>(message)) +
                                " near offset " + std::to_string(offset));
  }
  code_ =
      std::shared_ptr<void>(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  // Without JIT support matching interprets; nothing else changes.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
}

void Regex::ForEachMatch(std::string_view text,
                         const std::function<void(size_t, size_t)>& match) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, MatchDataDeleter> data(
      pcre2_match_data_create_from_pattern(code, nullptr));
  const std::unique_ptr<pcre2_match_context, MatchContextDeleter> context(
      pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_depth_limit(context.get(), kDepthLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t start = 0;
  uint32_t after_empty = 0;
  while (start <= text.size()) {
    const uint32_t options = PCRE2_NO_UTF_CHECK | after_empty;
    int found = pcre2_match(code, subject, text.size(), start, options, data.get(), context.get());
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
      found = pcre2_match(code, subject, text.size(), start, options | PCRE2_NO_JIT, data.get(),
                          context.get());
    }
    if (found < 0) {
      if (found != PCRE2_ERROR_NOMATCH || after_empty == 0) return;
      // Nothing but the empty match stood here: go on one code point further.
      after_empty = 0;
      ++start;
      while (start < text.size() && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) ++start;
      continue;
    }
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
    // \K in a lookahead can turn a span around.
    if (span[0] > span[1] || span[1] < start) return;
    match(span[0], span[1]);
    start = span[1];
    after_empty = span[0] == span[1] ? PCRE2_NOTEMPTY_ATSTART | PCRE2_ANCHORED : 0;
  }
}

}  // namespace palu
