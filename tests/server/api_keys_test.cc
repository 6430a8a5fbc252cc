// Keys as the parts of the server see them; reading them again is tested in tests/e2e.
#include "server/api_keys.h"

#include <gtest/gtest.h>

namespace palu {
namespace {

SecurityConfig Config(std::vector<std::string> keys, int max_requests_per_key = 0) {
  SecurityConfig config;
  config.api_keys = std::move(keys);
  config.max_requests_per_key = max_requests_per_key;
  return config;
}

std::string KeyOf(ApiKeys* keys, const std::string& authorization) {
  ApiKeys::Admission admission;
  EXPECT_TRUE(keys->Admit(authorization, &admission).ok()) << authorization;
  return admission.key;
}

TEST(ApiKeys, AdmissionTellsKeysApartWithoutShowingThem) {
  for (const int limit : {0, 5}) {
    ApiKeys keys(Config({"first-key", "second-key"}, limit));
    const std::string first = KeyOf(&keys, "Bearer first-key");
    EXPECT_FALSE(first.empty());
    EXPECT_EQ(first, KeyOf(&keys, "bearer  first-key "));
    EXPECT_NE(first, KeyOf(&keys, "Bearer second-key"));
    EXPECT_EQ(first.find("first-key"), std::string::npos);
  }
}

TEST(ApiKeys, FilesHaveAKeyPerLine) {
  using Keys = std::vector<std::string_view>;
  EXPECT_EQ(KeysOfFile("# team\r\n\n sk-1 \t\r\nsk 2#x"), (Keys{"sk-1", "sk 2#x"}));
  EXPECT_EQ(KeysOfFile("\xEF\xBB\xBFsk-1\n"), (Keys{"sk-1"})) << "after a byte order mark";
  EXPECT_EQ(KeysOfFile(" \n#sk-1\n"), Keys{});
}

TEST(ApiKeys, WithoutKeysNobodyIsToldApart) {
  ApiKeys keys(Config({}));
  EXPECT_EQ(KeyOf(&keys, "Bearer whatever"), "");
  EXPECT_EQ(KeyOf(&keys, ""), "");
}

TEST(ApiKeys, PlacesAreThoseOfTheKeyAndComeBack) {
  ApiKeys keys(Config({"first-key", "second-key"}, 1));
  ApiKeys::Admission held;
  ASSERT_TRUE(keys.Admit("Bearer first-key", &held).ok());
  EXPECT_EQ(held.permit.use_count(), 1);
  ApiKeys::Admission more;
  EXPECT_EQ(keys.Admit("Bearer first-key", &more).code, StatusCode::kResourceExhausted);
  EXPECT_EQ(more.permit.use_count(), 0);
  EXPECT_TRUE(keys.Admit("Bearer second-key", &more).ok());
  EXPECT_EQ(keys.Admit("Bearer third-key", &more).code, StatusCode::kUnauthenticated);
  held.permit.reset();
  EXPECT_TRUE(keys.Admit("Bearer first-key", &more).ok());
}

}  // namespace
}  // namespace palu
