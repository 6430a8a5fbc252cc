#include "server/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <sstream>
#include <utility>

namespace palu {
namespace {

constexpr std::string_view kScheme = "bearer";

template <typename Digest>
Digest Sha256(std::string_view text) {
  Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return digest;
}

std::string_view Trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

std::string ReadKeyFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    throw ConfigError("security.api_keys_file: " + path +
                      " cannot be read or is empty, expected a key per line");
  }
  return text.str();
}

// KEY of "Bearer KEY"; empty when it has another form.
std::string_view TokenOf(std::string_view authorization) {
  const std::string_view value = Trim(authorization);
  if (value.size() <= kScheme.size()) return {};
  for (size_t i = 0; i < kScheme.size(); ++i) {
    if (std::tolower(static_cast<unsigned char>(value[i])) != kScheme[i]) return {};
  }
  if (value[kScheme.size()] != ' ') return {};
  return Trim(value.substr(kScheme.size()));
}

}  // namespace

std::vector<std::string_view> KeysOfFile(std::string_view text) {
  // Some editors begin files with a byte order mark.
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  std::vector<std::string_view> keys;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = Trim(text.substr(0, end));
    if (!line.empty() && line[0] != '#') keys.push_back(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return keys;
}

ApiKeys::ApiKeys(const SecurityConfig& config) { Reload(config); }

void ApiKeys::Reload(const SecurityConfig& config) {
  std::vector<Digest> keys;
  for (const std::string& key : config.api_keys) keys.push_back(Sha256<Digest>(key));
  Digest file_digest{};
  if (!config.api_keys_file.empty()) {
    const std::string text = ReadKeyFile(config.api_keys_file);
    for (const std::string_view key : KeysOfFile(text)) keys.push_back(Sha256<Digest>(key));
    // A file that was emptied by mistake must not open the server.
    if (keys.empty()) {
      throw ConfigError("security.api_keys_file: found no key in " + config.api_keys_file +
                        ", expected a key per line");
    }
    file_digest = Sha256<Digest>(text);
  }
  std::lock_guard<std::mutex> lock(mutex_);
  keys_ = std::move(keys);
  file_ = config.api_keys_file;
  file_digest_ = file_digest;
  max_requests_ = config.max_requests_per_key;
}

bool ApiKeys::FileChanged() const {
  std::string file;
  Digest known;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    file = file_;
    known = file_digest_;
  }
  if (file.empty()) return false;
  try {
    return Sha256<Digest>(ReadKeyFile(file)) != known;
  } catch (const ConfigError&) {
    return false;  // in the middle of being replaced; the old keys stay
  }
}

size_t ApiKeys::size() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return keys_.size();
}

Result<std::optional<ApiKeys::Digest>> ApiKeys::Find(std::string_view authorization) const {
  const std::string_view token = TokenOf(authorization);
  const Digest digest = Sha256<Digest>(token);
  std::lock_guard<std::mutex> lock(mutex_);
  if (keys_.empty()) return std::nullopt;
  // All of them, each in constant time: how long it takes says nothing about any key.
  unsigned found = 0;
  for (const Digest& key : keys_) {
    found |= CRYPTO_memcmp(key.data(), digest.data(), digest.size()) == 0 ? 1u : 0u;
  }
  if (found != 0 && !token.empty()) return digest;
  const char* why = Trim(authorization).empty() ? "No API key was given; send 'Authorization: "
                                                  "Bearer KEY'"
                    : token.empty() ? "The Authorization header must have the form 'Bearer KEY'"
                                    : "The API key is not one of this server's";
  return tl::unexpected(Status{StatusCode::kUnauthenticated, why, ""});
}

Status ApiKeys::Check(std::string_view authorization) const {
  const auto key = Find(authorization);
  return key ? Status{} : key.error();
}

Status ApiKeys::Admit(std::string_view authorization, Admission* admission) {
  const auto key = Find(authorization);
  if (!key) return key.error();
  if (!key->has_value()) return {};
  admission->key.assign((*key)->begin(), (*key)->end());
  int limit;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    limit = max_requests_;
  }
  if (limit == 0) return {};
  {
    std::lock_guard<std::mutex> lock(running_->mutex);
    int& running = running_->requests[**key];
    if (running >= limit) {
      return {StatusCode::kResourceExhausted,
              "This API key has " + std::to_string(running) +
                  " requests running, as many as it may have at once",
              ""};
    }
    ++running;
  }
  // Without the lock, which a permit that this one replaces needs.
  admission->permit = std::shared_ptr<void>(nullptr, [shared = running_, digest = **key](void*) {
    std::lock_guard<std::mutex> release(shared->mutex);
    const auto found = shared->requests.find(digest);
    if (--found->second == 0) shared->requests.erase(found);
  });
  return {};
}

}  // namespace palu
