#include "server/text/split_pre_tokenizer.h"

#include "server/text/utf8.h"

namespace palu {
namespace {

// A stretch of a piece; delimiters are what the pattern matched (or did not, when inverted).
struct Span {
  size_t begin;
  size_t end;
  bool delimiter;
};

void MergeWithPrevious(std::vector<Span>* spans) {
  std::vector<Span> out;
  bool previous = false;
  for (const Span& span : *spans) {
    if (span.delimiter && !previous && !out.empty()) {
      out.back().end = span.end;
    } else {
      out.push_back(span);
    }
    previous = span.delimiter;
  }
  *spans = std::move(out);
}

void MergeWithNext(std::vector<Span>* spans) {
  std::vector<Span> out;
  bool previous = false;
  for (auto span = spans->rbegin(); span != spans->rend(); ++span) {
    if (span->delimiter && !previous && !out.empty()) {
      out.back().begin = span->begin;
    } else {
      out.push_back(*span);
    }
    previous = span->delimiter;
  }
  spans->assign(out.rbegin(), out.rend());
}

void MergeRuns(std::vector<Span>* spans) {
  std::vector<Span> out;
  for (const Span& span : *spans) {
    if (!out.empty() && out.back().delimiter == span.delimiter) {
      out.back().end = span.end;
    } else {
      out.push_back(span);
    }
  }
  *spans = std::move(out);
}

void Arrange(SplitBehavior behavior, std::vector<Span>* spans) {
  switch (behavior) {
    case SplitBehavior::kRemoved:
      std::erase_if(*spans, [](const Span& span) { return span.delimiter; });
      return;
    case SplitBehavior::kIsolated:
      return;
    case SplitBehavior::kMergedWithPrevious:
      return MergeWithPrevious(spans);
    case SplitBehavior::kMergedWithNext:
      return MergeWithNext(spans);
    case SplitBehavior::kContiguous:
      return MergeRuns(spans);
  }
}

void AppendSpans(const TextPiece& piece, const std::vector<Span>& spans,
                 std::vector<TextPiece>* out) {
  for (const Span& span : spans) {
    if (span.begin == span.end) continue;
    out->push_back(
        {piece.text.substr(span.begin, span.end - span.begin), piece.at_start && span.begin == 0});
  }
}

}  // namespace

SplitBehavior ReadSplitBehavior(const JsonReader& spec) {
  const std::string name = spec.String();
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  spec.FailValue("Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

void SplitPreTokenizer::Apply(std::vector<TextPiece>* pieces) const {
  std::vector<TextPiece> out;
  std::vector<Span> spans;
  for (const TextPiece& piece : *pieces) {
    spans.clear();
    size_t done = 0;
    finder_(piece.text, [&](size_t begin, size_t end) {
      if (begin > done) spans.push_back({done, begin, invert_});
      spans.push_back({begin, end, !invert_});
      done = end;
    });
    if (done < piece.text.size()) spans.push_back({done, piece.text.size(), invert_});
    Arrange(behavior_, &spans);
    AppendSpans(piece, spans, &out);
  }
  *pieces = std::move(out);
}

SplitPreTokenizer::Finder FindPattern(TextPattern pattern) {
  return [pattern = std::move(pattern)](std::string_view text,
                                        const std::function<void(size_t, size_t)>& match) {
    pattern.ForEachMatch(text, match);
  };
}

SplitPreTokenizer::Finder FindCodePoints(bool (*test)(char32_t)) {
  return [test](std::string_view text, const std::function<void(size_t, size_t)>& match) {
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      if (test(NextCodePoint(text, &pos))) match(begin, pos);
    }
  };
}

}  // namespace palu
