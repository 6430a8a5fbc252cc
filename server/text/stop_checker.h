// Stop strings in streamed text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace palu {

// Finds the first stop string in text that arrives in pieces, and holds back the end of the text
// while it may still become one, so that no part of a stop string is ever shown. The stop string
// that is complete first wins; of several complete at the same byte, the longest. The result does
// not depend on how the text was cut. Owned by one stream, used by one thread at a time.
class StopChecker {
 public:
  // include_stop: the stop string itself belongs to the text. Empty stop strings are ignored.
  explicit StopChecker(std::vector<std::string> stops, bool include_stop = false);

  // Text that may be shown now. After a match: nothing any more.
  std::string Push(std::string_view text);
  // The text ended without a further match: what was held back.
  std::string Finish();

  bool stopped() const { return matched_ >= 0; }
  // The stop string found; only when stopped().
  const std::string& matched() const { return patterns_[static_cast<size_t>(matched_)].text; }

 private:
  struct Pattern {
    std::string text;
    std::vector<size_t> failure;  // failure[i]: longest border of text[0..i]
    size_t matched = 0;           // bytes of text that the input's end spells
  };

  // Index of the pattern completed by this byte, or -1.
  int Advance(char byte);

  std::vector<Pattern> patterns_;
  bool include_stop_;
  int matched_ = -1;
  std::string held_;
};

}  // namespace palu
