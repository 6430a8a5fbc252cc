// Sets of Unicode code points as sorted ranges.
#pragma once

#include <cstdint>
#include <vector>

namespace palu::structured {

using CodePoint = uint32_t;

inline constexpr CodePoint kLastCodePoint = 0x10FFFF;

struct CodeRange {
  CodePoint first = 0;
  CodePoint last = 0;  // included
  bool operator==(const CodeRange&) const = default;
};

// A plain value. Surrogates are no characters: complements leave them out.
class CodeSet {
 public:
  CodeSet() = default;
  CodeSet(std::initializer_list<CodeRange> ranges) {
    for (const CodeRange& range : ranges) Add(range);
  }

  void Add(CodeRange range);
  void Add(CodePoint code) { Add({code, code}); }
  void Add(const CodeSet& other) {
    for (const CodeRange& range : other.ranges_) Add(range);
  }
  CodeSet Complement() const;
  bool Contains(CodePoint code) const;
  bool empty() const { return ranges_.empty(); }
  // Sorted, disjoint and not adjacent.
  const std::vector<CodeRange>& ranges() const { return ranges_; }

 private:
  std::vector<CodeRange> ranges_;
};

}  // namespace palu::structured
