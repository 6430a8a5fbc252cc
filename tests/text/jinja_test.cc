// Snippets against Python's Jinja2 (make_jinja_cases.py), and the bounds of the sandbox.
#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "server/text/jinja/template.h"
#include "tests/test_paths.h"

namespace palu::jinja {
namespace {

using nlohmann::ordered_json;

constexpr std::time_t kNow = 1722000000;  // 26 July 2024, noon in UTC give or take

std::string Outcome(const std::string& source, const ordered_json& data) {
  try {
    const auto text = Template(source).Render(data, kNow);
    return text ? "out: " + *text : "error: " + text.error().kind + ": " + text.error().message;
  } catch (const Error& error) {
    return "error: " + error.kind;
  }
}

TEST(Jinja, MatchesPython) {
  std::ifstream in(palu::testing::SourceDir() + "/tests/text/jinja_cases.json");
  const ordered_json file = ordered_json::parse(in);
  ASSERT_GT(file["cases"].size(), 100u);
  for (const auto& one : file["cases"]) {
    const std::string expected = one.contains("out") ? "out: " + one["out"].get<std::string>()
                                                     : "error: " + one["error"].get<std::string>();
    EXPECT_EQ(Outcome(one["source"], file["data"]), expected) << one["source"];
  }
}

// Each of these would run out of time, memory or stack without a bound.
TEST(Jinja, HostileTemplatesEnd) {
  const char* const kSources[] = {
      "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% "
      "endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% "
      "endfor %}",
      "{% set ns = namespace(x=1) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor "
      "%}",
      "{% set ns = namespace(x=1) %}{% for i in range(1000) %}{% set ns.x = [ns.x].count %}{% "
      "endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(150) %}{% set ns.x = [ns.x, ns.x] %}{% "
      "endfor %}{{ ns.x }}",
      "{% set a = namespace(x=[1]) %}{% set b = namespace(x=[1]) %}{% for i in range(150) %}"
      "{% set a.x = [a.x, a.x] %}{% set b.x = [b.x, b.x] %}{% endfor %}{{ a.x == b.x }}",
      "{{ 'a' * 1000000000 }}",
      "{{ 'a'.center(1000000000) }}",
      "{{ '%1000000000d' % 1 }}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ 10 ** 100 }}",
      "{% for i in range(100000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 100 }}{% "
      "endfor %}",
      "{% for i in [[1]] recursive %}{{ loop([i]) }}{% endfor %}",
      "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
      "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
  };
  for (const char* source : kSources) {
    const auto begin = std::chrono::steady_clock::now();
    const auto text = Template(source).Render(ordered_json::object(), kNow);
    EXPECT_FALSE(text.has_value()) << source;
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30)) << source;
  }
}

TEST(Jinja, DeepSourceIsASyntaxError) {
  EXPECT_THROW(Template("{{ " + std::string(100000, '(') + " }}"), Error);
  EXPECT_THROW(Template("{{ " + std::string(100000, '-') + "1 }}"), Error);
  EXPECT_THROW(Template("{{ a" + std::string(100000, '.') + " }}"), Error);
  std::string chain = "{{ 1";
  for (int i = 0; i < 100000; ++i) chain += "+1";
  EXPECT_THROW(Template(chain + " }}"), Error);
  std::string ifs;
  for (int i = 0; i < 100000; ++i) ifs += "{% if a %}";
  EXPECT_THROW(Template{ifs}, Error);
}

TEST(Jinja, NamespacesThatHoldEachOtherAreFreed) {
  const auto text = Template(
                        "{% set ns = namespace(x=none) %}{% for i in range(50000) %}"
                        "{% set ns = namespace(x=ns) %}{% set ns.me = ns %}{% endfor %}"
                        "{% set top = namespace(x=none) %}{% for i in range(50000) %}"
                        "{% set top.x = namespace(x=top.x) %}{% endfor %}done")
                        .Render(ordered_json::object(), kNow);
  EXPECT_EQ(text.value(), "done");
}

TEST(Jinja, StrftimeNowUsesTheGivenTime) {
  std::tm local{};
  localtime_r(&kNow, &local);
  char expected[32];
  std::strftime(expected, sizeof(expected), "%Y-%m-%d %H", &local);
  EXPECT_EQ(
      Template("{{ strftime_now('%Y-%m-%d %H') }}").Render(ordered_json::object(), kNow).value(),
      expected);
}

}  // namespace
}  // namespace palu::jinja
