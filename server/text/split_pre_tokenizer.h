// Cutting pieces of text at delimiters.
#pragma once

#include <cstddef>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "server/text/json_reader.h"
#include "server/text/pre_tokenizer.h"
#include "server/text/text_pattern.h"

namespace palu {

// What becomes of a delimiter.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Throws LoadError.
SplitBehavior ReadSplitBehavior(const JsonReader& spec);

// Cuts pieces at what a finder marks. Immutable; thread-safe.
class SplitPreTokenizer : public PreTokenizer {
 public:
  // Reports delimiters in order, without overlap.
  using Finder = std::function<void(std::string_view, const std::function<void(size_t, size_t)>&)>;

  // invert: what lies between the finder's spans is the delimiter.
  SplitPreTokenizer(Finder finder, SplitBehavior behavior, bool invert)
      : finder_(std::move(finder)), behavior_(behavior), invert_(invert) {}

  void Apply(std::vector<TextPiece>* pieces) const override;

 private:
  Finder finder_;
  SplitBehavior behavior_;
  bool invert_;
};

SplitPreTokenizer::Finder FindPattern(TextPattern pattern);
SplitPreTokenizer::Finder FindCodePoints(bool (*test)(char32_t));

}  // namespace palu
