#include "server/text/bpe_model.h"

#include <algorithm>
#include <queue>
#include <tuple>

#include "server/text/utf8.h"

namespace palu {
namespace {

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// A merge is "left right", or [left, right].
std::pair<std::string, std::string> ReadMerge(const JsonReader& merge) {
  if (merge.value().is_array()) {
    if (merge.size() != 2) merge.FailValue("a pair of tokens");
    return {merge.At(size_t{0}).String(), merge.At(size_t{1}).String()};
  }
  const std::string text = merge.String();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    merge.FailValue("two tokens with a space between them");
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

}  // namespace

BpeModel::BpeModel(const JsonReader& spec)
    : fuse_unk_(spec.BoolOr("fuse_unk", false)),
      byte_fallback_(spec.BoolOr("byte_fallback", false)),
      ignore_merges_(spec.BoolOr("ignore_merges", false)),
      prefix_(spec.StringOr("continuing_subword_prefix", "")),
      suffix_(spec.StringOr("end_of_word_suffix", "")),
      cache_(std::make_unique<std::array<CacheShard, kShards>>()) {
  if (spec.StringOr("type", "BPE") != "BPE") spec.At("type").FailValue("BPE");
  ReadVocab(spec.At("vocab").Object());
  ReadMerges(spec.At("merges").Array());
  if (spec.Has("unk_token")) {
    unk_id_ = Find(spec.String("unk_token"));
    if (unk_id_ < 0) spec.At("unk_token").FailValue("a token of the vocabulary");
  }
  static constexpr char kDigits[] = "0123456789ABCDEF";
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    byte_ids_[byte] = Find(std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15] + ">");
  }
}

void BpeModel::ReadVocab(const JsonReader& vocab) {
  vocab_.reserve(vocab.size());
  for (const auto& [token, value] : vocab.value().items()) {
    const JsonReader reader(value, vocab.file(), "model.vocab[\"" + token + "\"]");
    const int32_t id = static_cast<int32_t>(reader.Int(0, kMaxTokenId));
    if (static_cast<size_t>(id) >= names_.size()) names_.resize(static_cast<size_t>(id) + 1);
    std::string& name = names_[static_cast<size_t>(id)];
    if (token.empty()) reader.Fail("an empty token", "text");
    if (!name.empty())
      reader.Fail(std::to_string(id) + ", the id of \"" + name + "\" too", "one id a token");
    name = token;
    vocab_.emplace(token, id);
  }
}

void BpeModel::ReadMerges(const JsonReader& merges) {
  merges_.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const JsonReader merge = merges.At(i);
    const auto [left, right] = ReadMerge(merge);
    const int32_t left_id = Find(left);
    const int32_t right_id = Find(right);
    // The prefix marks a continuation; joined, it stands once.
    const bool marked = !prefix_.empty() && right.starts_with(prefix_);
    const int32_t id = Find(left + (marked ? right.substr(prefix_.size()) : right));
    if (left_id < 0 || right_id < 0 || id < 0) {
      merge.FailValue("two tokens of the vocabulary that make a third one");
    }
    merges_.insert_or_assign(PairKey(left_id, right_id), Merge{static_cast<uint32_t>(i), id});
  }
}

int32_t BpeModel::Find(std::string_view token) const {
  const auto found = vocab_.find(token);
  return found == vocab_.end() ? -1 : found->second;
}

void BpeModel::Encode(std::string_view piece, std::vector<int32_t>* ids) const {
  if (piece.empty()) return;
  if (ignore_merges_) {
    if (const int32_t whole = Find(piece); whole >= 0) return ids->push_back(whole);
  }
  if (piece.size() > kMaxCachedBytes) return EncodeUncached(piece, ids);
  const size_t hash = Hash()(piece);
  CacheShard& shard = (*cache_)[hash % kShards];
  CacheSlot& slot = shard.slots[hash / kShards % CacheShard::kSlots];
  {
    const std::lock_guard lock(shard.mutex);
    if (slot.piece == piece) {
      ids->insert(ids->end(), slot.ids.begin(), slot.ids.end());
      return;
    }
  }
  std::vector<int32_t> fresh;
  EncodeUncached(piece, &fresh);
  ids->insert(ids->end(), fresh.begin(), fresh.end());
  const std::lock_guard lock(shard.mutex);
  slot.piece = piece;
  slot.ids = std::move(fresh);
}

void BpeModel::EncodeUncached(std::string_view piece, std::vector<int32_t>* ids) const {
  std::vector<int32_t> word;
  word.reserve(piece.size());
  Characters(piece, &word);
  ApplyMerges(&word);
  ids->insert(ids->end(), word.begin(), word.end());
}

bool BpeModel::AppendBytes(std::string_view character, std::vector<int32_t>* ids) const {
  const auto id = [this](char c) { return byte_ids_[static_cast<uint8_t>(c)]; };
  if (!std::all_of(character.begin(), character.end(), [&](char c) { return id(c) >= 0; })) {
    return false;
  }
  for (const char c : character) ids->push_back(id(c));
  return true;
}

void BpeModel::Characters(std::string_view piece, std::vector<int32_t>* ids) const {
  bool pending_unk = false;
  std::string decorated;
  for (size_t pos = 0; pos < piece.size();) {
    const size_t begin = pos;
    NextCodePoint(piece, &pos);
    std::string_view character = piece.substr(begin, pos - begin);
    if (!prefix_.empty() || !suffix_.empty()) {
      decorated.assign(begin > 0 ? prefix_ : "").append(character);
      if (pos == piece.size()) decorated += suffix_;
      character = decorated;
    }
    if (const int32_t id = Find(character); id >= 0) {
      if (pending_unk) ids->push_back(unk_id_);
      pending_unk = false;
      ids->push_back(id);
    } else if (byte_fallback_ && AppendBytes(character, ids)) {
      continue;
    } else if (unk_id_ >= 0) {
      if (pending_unk && !fuse_unk_) ids->push_back(unk_id_);
      pending_unk = true;
    }
  }
  if (pending_unk) ids->push_back(unk_id_);
}

// A linked list of symbols and a queue of possible merges, best rank first, then leftmost. An entry
// whose symbols have changed since is recognised by their ids.
void BpeModel::ApplyMerges(std::vector<int32_t>* ids) const {
  struct Symbol {
    int32_t id;  // -1: merged into its left neighbour
    int previous;
    int next;
  };
  using Candidate = std::tuple<uint32_t, int, int32_t>;  // rank, left symbol, resulting id
  const int count = static_cast<int>(ids->size());
  std::vector<Symbol> symbols(ids->size());
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto find = [&](int left) -> const Merge* {
    const int right = symbols[static_cast<size_t>(left)].next;
    if (right >= count) return nullptr;
    const auto found = merges_.find(
        PairKey(symbols[static_cast<size_t>(left)].id, symbols[static_cast<size_t>(right)].id));
    return found == merges_.end() ? nullptr : &found->second;
  };
  const auto offer = [&](int left) {
    if (const Merge* merge = find(left)) queue.emplace(merge->rank, left, merge->id);
  };
  for (int i = 0; i < count; ++i)
    symbols[static_cast<size_t>(i)] = {(*ids)[static_cast<size_t>(i)], i - 1, i + 1};
  for (int i = 0; i + 1 < count; ++i) offer(i);
  while (!queue.empty()) {
    const auto [rank, left, id] = queue.top();
    queue.pop();
    Symbol& symbol = symbols[static_cast<size_t>(left)];
    if (symbol.id < 0) continue;
    const Merge* merge = find(left);
    if (merge == nullptr || merge->id != id) continue;
    Symbol& gone = symbols[static_cast<size_t>(symbol.next)];
    symbol.id = id;
    symbol.next = gone.next;
    gone.id = -1;
    if (symbol.next < count) symbols[static_cast<size_t>(symbol.next)].previous = left;
    if (symbol.previous >= 0) offer(symbol.previous);
    offer(left);
  }
  ids->clear();
  for (int i = 0; i < count; i = symbols[static_cast<size_t>(i)].next) {
    ids->push_back(symbols[static_cast<size_t>(i)].id);
  }
}

}  // namespace palu
