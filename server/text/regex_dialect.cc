#include <cctype>
#include <stdexcept>
#include <string>
#include <vector>

#include "server/text/regex.h"

namespace palu {
namespace {

// Members of Oniguruma's classes; PCRE2 defines \s and \w a little differently.
constexpr std::string_view kSpace =
    "\\t-\\r "
    "\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
constexpr std::string_view kWord = "\\p{L}\\p{M}\\p{Nd}\\p{Pc}";
constexpr std::string_view kHex = "0-9A-Fa-f";

// One pass over a pattern. Used on the stack, by one thread.
class Translator {
 public:
  explicit Translator(std::string_view in) : in_(in) {}

  std::string Run() {
    while (pos_ < in_.size()) {
      const char c = in_[pos_];
      if (c == '\\') {
        Escape(/*in_class=*/false);
      } else if (c == '[') {
        Class();
      } else if (c == '(') {
        Group();
      } else if (c == '{') {
        Interval();
      } else {
        Copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void Fail(const std::string& what) const {
    throw std::invalid_argument(what + " at offset " + std::to_string(pos_));
  }
  void Copy(size_t count) {
    out_ += in_.substr(pos_, count);
    pos_ += count;
  }
  bool At(size_t offset, char c) const {
    return pos_ + offset < in_.size() && in_[pos_ + offset] == c;
  }

  void Members(std::string_view members, bool negated, bool in_class) {
    if (in_class && negated) Fail("negated class escape inside a character class");
    if (!in_class) out_ += negated ? "[^" : "[";
    out_ += members;
    if (!in_class) out_ += ']';
    pos_ += 2;
  }

  void Escape(bool in_class) {
    if (pos_ + 1 >= in_.size()) Fail("pattern ends in a backslash");
    const char c = in_[pos_ + 1];
    const bool upper = std::isupper(static_cast<unsigned char>(c)) != 0;
    switch (c) {
      case 's':
      case 'S':
        // Negated inside a class, PCRE2's own \S differs from Oniguruma's in U+180E alone.
        return in_class && upper ? Copy(2) : Members(kSpace, upper, in_class);
      case 'w':
      case 'W':
        return in_class && upper ? Copy(2) : Members(kWord, upper, in_class);
      case 'h':
      case 'H':
        return Members(kHex, upper, in_class);
      default:
        return Copy(2);
    }
  }

  void Class() {
    Copy(1);
    if (At(0, '^')) Copy(1);
    if (At(0, ']')) Copy(1);
    while (pos_ < in_.size() && in_[pos_] != ']') {
      if (in_[pos_] == '\\') {
        Escape(/*in_class=*/true);
      } else if (in_[pos_] == '[' && At(1, ':')) {
        const size_t end = in_.find(":]", pos_ + 2);
        if (end == std::string_view::npos) Fail("unterminated POSIX class");
        Copy(end + 2 - pos_);
      } else if (in_[pos_] == '[') {
        Fail("character class inside a character class is not supported");
      } else if (in_[pos_] == '&' && At(1, '&')) {
        Fail("intersection of character classes is not supported");
      } else {
        Copy(1);
      }
    }
    if (pos_ >= in_.size()) Fail("unterminated character class");
    Copy(1);
  }

  // In Ruby (?m) lets the dot match line ends, which is (?s) elsewhere; ^ and $ always know lines.
  void Group() {
    Copy(1);
    if (!At(0, '?')) return;
    Copy(1);
    size_t end = pos_;
    while (end < in_.size() &&
           (in_[end] == 'i' || in_[end] == 'm' || in_[end] == 'x' || in_[end] == '-')) {
      ++end;
    }
    if (end == pos_ || end >= in_.size() || (in_[end] != ':' && in_[end] != ')')) return;
    for (; pos_ < end; ++pos_) out_ += in_[pos_] == 'm' ? 's' : in_[pos_];
  }

  // {n,m}+ repeats the repetition in Ruby; in PCRE2 it is possessive.
  void Interval() {
    const size_t end = in_.find('}', pos_);
    const bool digits =
        pos_ + 1 < in_.size() && std::isdigit(static_cast<unsigned char>(in_[pos_ + 1]));
    if (end == std::string_view::npos || !digits || end + 1 >= in_.size() || in_[end + 1] != '+') {
      return Copy(1);
    }
    const std::string_view low = in_.substr(pos_ + 1, in_.find_first_of(",}", pos_) - pos_ - 1);
    if (low != "0" && low != "1") Fail("repeated interval of at least " + std::string(low));
    out_ += low == "0" ? '*' : '+';
    pos_ = end + 2;
  }

  std::string_view in_;
  size_t pos_ = 0;
  std::string out_;
};

}  // namespace

std::string OnigurumaToPcre(std::string_view pattern) { return Translator(pattern).Run(); }

std::string EscapeRegex(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::ispunct(static_cast<unsigned char>(c)) != 0) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace palu
