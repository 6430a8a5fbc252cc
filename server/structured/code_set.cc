#include "server/structured/code_set.h"

#include <algorithm>

namespace palu::structured {

void CodeSet::Add(CodeRange range) {
  if (range.first > range.last) return;
  // Those that overlap or touch the new one become part of it.
  auto begin = std::lower_bound(
      ranges_.begin(), ranges_.end(), range.first,
      [](const CodeRange& r, CodePoint code) { return uint64_t{r.last} + 1 < code; });
  auto end = begin;
  for (; end != ranges_.end() && end->first <= uint64_t{range.last} + 1; ++end) {
    range.first = std::min(range.first, end->first);
    range.last = std::max(range.last, end->last);
  }
  ranges_.insert(ranges_.erase(begin, end), range);
}

CodeSet CodeSet::Complement() const {
  CodeSet all = *this;
  all.Add({0xD800, 0xDFFF});
  CodeSet result;
  CodePoint next = 0;
  for (const CodeRange& range : all.ranges_) {
    if (range.first > next) result.ranges_.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kLastCodePoint) result.ranges_.push_back({next, kLastCodePoint});
  return result;
}

bool CodeSet::Contains(CodePoint code) const {
  const auto it = std::upper_bound(ranges_.begin(), ranges_.end(), code,
                                   [](CodePoint c, const CodeRange& r) { return c < r.first; });
  return it != ranges_.begin() && std::prev(it)->last >= code;
}

}  // namespace palu::structured
