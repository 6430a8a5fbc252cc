#include "server/text/stop_checker.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace palu {
namespace {

struct Found {
  size_t begin = std::string::npos;
  size_t end = std::string::npos;
};

// The stop string that ends first; of those that end there, the longest.
Found NaiveSearch(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    Found found;
    for (const std::string& stop : stops) {
      if (stop.empty() || stop.size() > end) continue;
      if (text.compare(end - stop.size(), stop.size(), stop) == 0) {
        found = {std::min(found.begin, end - stop.size()), end};
      }
    }
    if (found.end != std::string::npos) return found;
  }
  return {};
}

// True when some stop string is visible, or its beginning stands at the end of text that goes on.
bool ShowsTooMuch(const std::string& shown, const std::string& whole, const Found& found) {
  return found.end != std::string::npos && shown.size() > found.begin &&
         whole.compare(0, shown.size(), shown) == 0;
}

TEST(StopChecker, EqualsNaiveSearchHoweverTheTextIsCut) {
  std::mt19937 random(7);
  const auto word = [&](size_t longest) {
    std::string text(random() % (longest + 1), 'a');
    for (char& c : text) c = static_cast<char>('a' + random() % 3);
    return text;
  };
  int matches = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(random() % 4);
    for (std::string& stop : stops) stop = word(5);
    const std::string text = word(30);
    const Found found = NaiveSearch(text, stops);
    const bool include = random() % 2 == 0;
    StopChecker checker(stops, include);
    std::string shown;
    for (size_t pos = 0; pos < text.size();) {
      const size_t length = 1 + random() % 6;
      shown += checker.Push(std::string_view(text).substr(pos, length));
      pos += length;
      if (!include) {
        ASSERT_FALSE(ShowsTooMuch(shown, text, found));
      }
    }
    ASSERT_EQ(checker.stopped(), found.end != std::string::npos);
    if (!checker.stopped()) shown += checker.Finish();
    const size_t expected = !checker.stopped() ? text.size() : include ? found.end : found.begin;
    ASSERT_EQ(shown, text.substr(0, expected));
    if (checker.stopped()) {
      ASSERT_EQ(checker.matched(), text.substr(found.begin, found.end - found.begin));
      EXPECT_EQ(checker.Finish(), "");
      ++matches;
    }
  }
  EXPECT_GT(matches, 5000);
}

TEST(StopChecker, HoldsBackOnlyWhatMayBecomeAStop) {
  StopChecker checker({"\n\nUser:", "END"});
  EXPECT_EQ(checker.Push("Hello\n"), "Hello");
  EXPECT_EQ(checker.Push("world E"), "\nworld ");
  EXPECT_EQ(checker.Push("N"), "");
  EXPECT_EQ(checker.Push("d"), "ENd");
  EXPECT_EQ(checker.Push("\n\nUs"), "");
  EXPECT_EQ(checker.Finish(), "\n\nUs");
}

TEST(StopChecker, StopsAcrossPieces) {
  StopChecker checker({"stop"}, /*include_stop=*/true);
  EXPECT_EQ(checker.Push("a st"), "a ");
  EXPECT_EQ(checker.Push("op and more"), "stop");
  EXPECT_TRUE(checker.stopped());
  EXPECT_EQ(checker.Push("even more"), "");
}

TEST(StopChecker, WithoutStopsPassesEverything) {
  StopChecker checker({""});
  EXPECT_EQ(checker.Push("text"), "text");
  EXPECT_FALSE(checker.stopped());
}

}  // namespace
}  // namespace palu
