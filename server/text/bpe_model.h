// Byte-pair encoding: a piece of text to the ids of its tokens.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "server/text/json_reader.h"

namespace palu {

inline constexpr int32_t kMaxTokenId = (1 << 24) - 1;

// The "model" of a tokenizer.json. Immutable but for a bounded cache; thread-safe.
class BpeModel {
 public:
  // Throws LoadError.
  explicit BpeModel(const JsonReader& spec);

  // Appends the piece's ids. O(n log n) in its length.
  void Encode(std::string_view piece, std::vector<int32_t>* ids) const;

  int32_t Find(std::string_view token) const;                       // -1: none
  const std::vector<std::string>& names() const { return names_; }  // by id; empty where none

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  struct CacheSlot {
    std::string piece;
    std::vector<int32_t> ids;
  };
  // Direct-mapped: a new word takes the place of the old one, so that it never grows.
  struct CacheShard {
    static constexpr size_t kSlots = 512;
    std::mutex mutex;
    std::vector<CacheSlot> slots{kSlots};
  };
  static constexpr size_t kShards = 16;
  static constexpr size_t kMaxCachedBytes = 64;

  void ReadVocab(const JsonReader& vocab);
  void ReadMerges(const JsonReader& merges);
  // ids of the single characters (bytes where it must fall back).
  void Characters(std::string_view piece, std::vector<int32_t>* ids) const;
  bool AppendBytes(std::string_view character, std::vector<int32_t>* ids) const;
  void ApplyMerges(std::vector<int32_t>* ids) const;
  void EncodeUncached(std::string_view piece, std::vector<int32_t>* ids) const;

  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> vocab_;
  std::vector<std::string> names_;
  std::unordered_map<uint64_t, Merge> merges_;  // by left id << 32 | right id
  std::array<int32_t, 256> byte_ids_{};         // of <0x00>…; -1: none
  int32_t unk_id_ = -1;
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  std::string prefix_;  // of every character but the first
  std::string suffix_;  // of the last character
  std::unique_ptr<std::array<CacheShard, kShards>> cache_;
};

}  // namespace palu
