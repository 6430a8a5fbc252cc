// Where tests find their data.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace palu::testing {

inline std::string SourceDir() { return PALU_SOURCE_DIR; }

// Data that is not in the repository; absent on most machines: skip the test then.
inline std::string FixturesDir() {
  const char* env = std::getenv("PALU_FIXTURES");
  return env != nullptr ? env : PALU_FIXTURES_DIR;
}

inline bool HasFixture(const std::string& relative) {
  return std::filesystem::exists(FixturesDir() + "/" + relative);
}

}  // namespace palu::testing

#define PALU_REQUIRE_FIXTURE(relative)        \
  if (!::palu::testing::HasFixture(relative)) \
  GTEST_SKIP() << "needs fixture " << (relative) << ", not on this machine"
