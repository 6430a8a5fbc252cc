// What PCRE2 says of texts: the reference for our own expressions and grammars.
#pragma once

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <string>

namespace palu::structured {

// One compiled expression.
class Pcre2Reference {
 public:
  explicit Pcre2Reference(const std::string& pattern) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                          PCRE2_UTF | PCRE2_DOLLAR_ENDONLY, &error, &offset, nullptr);
  }
  ~Pcre2Reference() { pcre2_code_free(code_); }
  Pcre2Reference(const Pcre2Reference&) = delete;
  Pcre2Reference& operator=(const Pcre2Reference&) = delete;

  bool valid() const { return code_ != nullptr; }
  bool Search(const std::string& text) const {
    pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
    const int found = pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                                  0, match, nullptr);
    pcre2_match_data_free(match);
    return found >= 0;
  }

 private:
  pcre2_code* code_ = nullptr;
};

// The whole text, which is UTF-8.
inline bool Pcre2Matches(const std::string& pattern, const std::string& text) {
  const Pcre2Reference whole("^(?:" + pattern + ")$");
  return whole.valid() && whole.Search(text);
}

}  // namespace palu::structured
