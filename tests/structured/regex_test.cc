// Regular expressions against PCRE2, on random expressions and texts.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "server/structured/regex_parser.h"
#include "server/structured/utf8_codes.h"
#include "tests/structured/pcre2_reference.h"

namespace palu::structured {
namespace {

class RandomRegex {
 public:
  explicit RandomRegex(std::mt19937* random) : random_(*random) {}

  std::string Make(int depth) {
    switch (Draw(depth > 0 ? 9 : 4)) {
      case 0:
      case 1:
        return Pick({"a", "b", "c", "é", "日", "\\.", "x", "0"});
      case 2:
        return Pick({"[ab]", "[^a]", "[a-c0-9]", "\\d", "\\w", ".", "[^\\d\\s]", "\\S", "[é-日]"});
      case 3:
        return Pick({"ab", "abc", "a0", ""});
      case 4:
      case 5:
        return Make(depth - 1) + Make(depth - 1);
      case 6:
        return "(" + Make(depth - 1) + "|" + Make(depth - 1) + ")";
      case 7:
        return "(?:" + Make(depth - 1) + ")" + Pick({"*", "+", "?", "{2}", "{1,3}", "{2,}", "*?"});
      default:
        return "(" + Make(depth - 1) + ")";
    }
  }

  std::string Text() {
    std::string text;
    for (int n = Draw(8); n > 0; --n) {
      text += Pick({"a", "b", "c", "é", "日", ".", "x", "0", " ", "ab", "9"});
    }
    return text;
  }

  int Draw(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }

 private:
  std::string Pick(const std::vector<std::string>& from) {
    return from[static_cast<size_t>(Draw(static_cast<int>(from.size())))];
  }

  std::mt19937& random_;
};

TEST(Regex, AgreesWithPcre2) {
  std::mt19937 random(7);
  RandomRegex make(&random);
  int matched = 0, compared = 0;
  for (int i = 0; i < 1500; ++i) {
    std::string pattern = make.Make(4);
    if (make.Draw(4) == 0) pattern = "^" + pattern;
    if (make.Draw(4) == 0) pattern += "$";
    const Pcre2Reference reference(pattern), whole("\\A(?:" + pattern + ")\\z");
    ASSERT_TRUE(reference.valid()) << pattern;
    const auto search = CompileRegex(pattern, RegexMode::kSearch);
    const auto full = CompileRegex(pattern, RegexMode::kFull);
    ASSERT_TRUE(search && full) << pattern << ": " << search.error().message;
    for (int k = 0; k < 12; ++k) {
      const std::string text = make.Text();
      const bool found = search->Matches(*DecodeUtf8(text));
      EXPECT_EQ(found, reference.Search(text)) << pattern << " in <" << text << ">";
      EXPECT_EQ(full->Matches(*DecodeUtf8(text)), whole.Search(text))
          << pattern << " is <" << text << ">";
      matched += found;
      ++compared;
    }
  }
  EXPECT_GT(matched, compared / 10);
  EXPECT_LT(matched, compared * 9 / 10);
}

TEST(Regex, EscapesAndProperties) {
  const auto matches = [](const char* pattern, const char* text) {
    const auto dfa = CompileRegex(pattern, RegexMode::kFull);
    EXPECT_TRUE(dfa.has_value()) << pattern;
    return dfa && dfa->Matches(*DecodeUtf8(text));
  };
  EXPECT_TRUE(matches("\\u00e9\\x41\\u{1F600}\\t", "éA😀\t"));
  EXPECT_TRUE(matches("\\ud83d\\ude00", "😀"));
  EXPECT_TRUE(matches("\\p{Lu}\\p{L}+", "Éa日"));
  EXPECT_FALSE(matches("\\p{Lu}", "é"));
  EXPECT_TRUE(matches("\\P{L}", "1"));
  EXPECT_TRUE(matches("[\\]\\-\\^]+", "]-^"));
  EXPECT_TRUE(matches("a{,2}", "a{,2}"));
  EXPECT_TRUE(matches("(?<year>\\d{4})", "2024"));
  EXPECT_TRUE(matches("^(a|^b)$", "b"));
  EXPECT_FALSE(matches("a^b", "ab"));
}

TEST(Regex, WhatIsNotRegularIsRefused) {
  for (const char* pattern :
       {"(?=a)", "(?!a)", "(?<=a)b", "(a)\\1", "\\bword", "(?i)a", "a)", "(a", "[a", "*a", "a{3,2}",
        "[b-a]", "\\", "\\uD800", "\\p{No such}", "a++", "(((a{1000}){1000}){1000})", "\\q"}) {
    const auto dfa = CompileRegex(pattern, RegexMode::kSearch);
    ASSERT_FALSE(dfa.has_value()) << pattern;
    EXPECT_EQ(dfa.error().code, StatusCode::kInvalidArgument);
    EXPECT_FALSE(dfa.error().message.empty());
  }
  // Its deterministic automaton has 2^20 states.
  EXPECT_FALSE(CompileRegex("a.{20}$", RegexMode::kSearch).has_value());
}

}  // namespace
}  // namespace palu::structured
