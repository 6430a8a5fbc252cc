// Spellings of sizes, durations and numbers.
#include "config/config_value.h"

#include <gtest/gtest.h>

#include <string>

namespace palu {
namespace {

TEST(ConfigValueTest, Integers) {
  EXPECT_EQ(ParseInteger(" 42 "), 42);
  EXPECT_EQ(ParseInteger("-7"), -7);
  for (const char* bad : {"", " ", "4.0", "0x10", "1 2", "+1", "9223372036854775808", "one"}) {
    EXPECT_FALSE(ParseInteger(bad).has_value()) << bad;
  }
}

TEST(ConfigValueTest, Bytes) {
  EXPECT_EQ(ParseBytes("0"), 0);
  EXPECT_EQ(ParseBytes("12B"), 12);
  EXPECT_EQ(ParseBytes("1.5 GiB"), int64_t{3} << 29);
  EXPECT_EQ(ParseBytes("2gb"), 2000000000);
  EXPECT_EQ(ParseBytes("8Ki"), 8192);
  EXPECT_EQ(ParseBytes("4096TiB"), int64_t{4096} << 40);
  for (const char* bad :
       {"", "GiB", "1.5", "-1", "1XiB", "1e400GiB", "99999999TiB", "1..2", "inf", "nan", "0x1p3"}) {
    EXPECT_FALSE(ParseBytes(bad).has_value()) << bad;
  }
}

TEST(ConfigValueTest, Durations) {
  EXPECT_EQ(ParseDuration("30")->count(), 30000);
  EXPECT_EQ(ParseDuration("0.5s")->count(), 500);
  EXPECT_EQ(ParseDuration("250ms")->count(), 250);
  EXPECT_EQ(ParseDuration("2m")->count(), 120000);
  EXPECT_EQ(ParseDuration("1h")->count(), 3600000);
  for (const char* bad : {"", "s", "-1s", "1 day", "0.5ms", "1s1s"}) {
    EXPECT_FALSE(ParseDuration(bad).has_value()) << bad;
  }
}

TEST(ConfigValueTest, Fractions) {
  EXPECT_EQ(ParseFraction("0.25"), 0.25);
  EXPECT_EQ(ParseFraction("100%"), 1.0);
  for (const char* bad : {"0", "1.01", "101%", "-0.1", "%", "", "nan"}) {
    EXPECT_FALSE(ParseFraction(bad).has_value()) << bad;
  }
}

TEST(ConfigValueTest, Lists) {
  EXPECT_EQ(ParseList(" a, b ,,c"), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_TRUE(ParseList("").empty());
  EXPECT_TRUE(ParseList(" , ").empty());
}

TEST(ConfigValueTest, FormatsReadBack) {
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{1023}, int64_t{1024},
                              int64_t{3} << 29, (int64_t{1} << 50) + 1}) {
    EXPECT_EQ(ParseBytes(FormatBytes(bytes)), bytes);
  }
  EXPECT_EQ(FormatBytes(int64_t{3} << 29), "1536MiB");
  EXPECT_EQ(FormatDuration(std::chrono::milliseconds(1500)), "1500ms");
  EXPECT_EQ(FormatDuration(std::chrono::seconds(30)), "30s");
  EXPECT_EQ(ParseNumber(FormatNumber(0.1 + 0.2)), 0.1 + 0.2);
}

TEST(ConfigValueTest, NearestWord) {
  EXPECT_EQ(Nearest("prot", {"host", "port"}), "port");
  EXPECT_EQ(Nearest("completely_else", {"host", "port"}), "");
  EXPECT_EQ(Nearest(std::string(100000, 'x'), {"port"}), "");
  EXPECT_EQ(Nearest("", {"port"}), "");
}

}  // namespace
}  // namespace palu
