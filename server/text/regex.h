// The regular expressions of tokenizer files.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace palu {

// A pattern in the dialect of tokenizer.json (Oniguruma, Ruby syntax, UTF-8), run by PCRE2 (JIT
// where it has one) under match limits. Immutable; thread-safe.
class Regex {
 public:
  // Throws std::invalid_argument: what is wrong and where.
  explicit Regex(const std::string& pattern);

  // Matches in order, without overlap; text must be valid UTF-8. Where the match limit is hit,
  // the search ends as if there were no further match.
  void ForEachMatch(std::string_view text,
                    const std::function<void(size_t begin, size_t end)>& match) const;

 private:
  std::shared_ptr<void> code_;  // pcre2_code
};

// The pattern in PCRE2's dialect. Throws std::invalid_argument for what has no equivalent.
std::string OnigurumaToPcre(std::string_view pattern);
// Quotes everything that means something in a pattern.
std::string EscapeRegex(std::string_view text);

}  // namespace palu
