// Bearer keys: who may ask, and how much at once.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/server_config.h"
#include "engine/status.h"

namespace palu {

// The keys of a key file: one per line, without the white space around it. Lines that are empty or
// begin with '#' are none.
std::vector<std::string_view> KeysOfFile(std::string_view text);

// Holds hashes of keys only, so that no log and no core file shows one. Thread-safe.
class ApiKeys {
 public:
  // Throws ConfigError when the file cannot be read.
  explicit ApiKeys(const SecurityConfig& config);

  // Reads the keys again: those of the settings and those of the file. Throws ConfigError and keeps
  // the old ones when the file cannot be read.
  void Reload(const SecurityConfig& config);
  // The file has another content than when it was read last.
  bool FileChanged() const;
  size_t size() const;

  // authorization: the whole header or metadata value, "Bearer KEY". kUnauthenticated, saying what
  // is wrong, unless there are no keys at all. Takes as long for every key.
  Status Check(std::string_view authorization) const;
  struct Admission {
    std::shared_ptr<void>
        permit;       // a place among the key's concurrent requests, held while it lives
    std::string key;  // stands for the key, and does not show it; empty: no keys are set
  };
  // Check, and what a request of that key runs under. kResourceExhausted: all places are taken.
  Status Admit(std::string_view authorization, Admission* admission);

 private:
  using Digest = std::array<unsigned char, 32>;

  Result<std::optional<Digest>> Find(std::string_view authorization) const;

  mutable std::mutex mutex_;
  std::vector<Digest> keys_;  // guarded by mutex_
  std::string file_;          // likewise
  Digest file_digest_{};      // likewise; of the file's content
  int max_requests_ = 0;      // likewise; per key, 0: no limit
  // Requests that run, by key. Shared with the permits, which may outlive this object.
  struct Running {
    std::mutex mutex;
    std::map<Digest, int> requests;  // guarded by mutex
  };
  const std::shared_ptr<Running> running_ = std::make_shared<Running>();
};

}  // namespace palu
