#include "tests/structured/walk.h"

#include <gtest/gtest.h>

namespace palu::structured {
namespace {

bool Bit(std::span<const uint32_t> mask, int32_t token) {
  return ((mask[static_cast<size_t>(token) / 32] >> (token % 32)) & 1u) != 0;
}

// What the mask says of a token, worked out the slow way.
bool Fits(Matcher* matcher, Matcher::StateId state, const std::string& bytes, bool strip,
          int32_t max_distance) {
  size_t begin = 0;
  if (strip && bytes.starts_with(' ')) begin = 1;
  if (begin == bytes.size()) return false;
  for (size_t i = begin; i < bytes.size(); ++i) {
    state = matcher->Step(state, static_cast<uint8_t>(bytes[i]));
  }
  return state != Matcher::kDead && matcher->distance(state) <= max_distance;
}

}  // namespace

std::shared_ptr<const Vocabulary> MakeVocabulary(const std::vector<std::string>& pieces,
                                                 bool strips_leading_space) {
  std::vector<std::string> bytes = {""};
  for (int byte = 0; byte < 256; ++byte) bytes.emplace_back(1, static_cast<char>(byte));
  bytes.insert(bytes.end(), pieces.begin(), pieces.end());
  return std::make_shared<Vocabulary>(bytes, strips_leading_space);
}

std::shared_ptr<const Vocabulary> JsonVocabulary(bool strips_leading_space) {
  return MakeVocabulary(
      {"{\"",      "\":",  "\": \"",   "\",",        "\", \"",     "\"}",   "\"},",     "}}",
       "]]",       "[[",   "[{",       "}]",         "},{",        "\"],",  "null",     "true,",
       "false",    "fal",  "se",       "12",         "345",        "0.",    ".5",       "e+",
       "-1",       "00",   "9999",     "the",        " the",       "a",     "an apple", "\\n",
       "\\u00",    "\\\"", "\n  ",     ",\n",        ": ",         "é",     "日本",     "\xE6",
       "\x97\xA5", "😀",    "\xF0\x9F", "name",       "\"name\"",   "value", "items",    "\"a\":",
       "b\":",     "\"c",  "2024-",    "-01-",       "T10:",       "@",     ".com",     "ab",
       "abc",      "  ",   "    ",     "\xFF<tool>", "<tool_call>"},
      strips_leading_space);
}

Walked RandomWalk(std::shared_ptr<MaskedGrammar> masked, int max_tokens, std::mt19937* random,
                  double stop, int checks, int32_t stop_id) {
  const Vocabulary& vocabulary = *masked->vocabulary;
  GrammarWalk walk(masked, {stop_id});
  Matcher matcher(*masked->grammar);
  Matcher::StateId state = matcher.start();
  Walked result;
  for (int left = max_tokens; left > 0; --left) {
    walk.FillMask(left);
    const std::span<const uint32_t> mask = walk.mask();
    const bool strip = result.tokens == 0 && vocabulary.strips_leading_space();
    bool any_near = false;
    std::vector<int32_t> allowed;
    for (int32_t token = 0; token < vocabulary.size(); ++token) {
      if (token != stop_id && Bit(mask, token)) allowed.push_back(token);
    }
    for (size_t i = 0; i < allowed.size() && checks > 0 && !any_near; ++i) {
      any_near = Fits(&matcher, state, vocabulary.bytes(allowed[i]), strip, left - 2);
    }
    for (int i = 0; i < checks && any_near; ++i) {
      const auto token = static_cast<int32_t>((*random)() % vocabulary.size());
      if (token == stop_id) continue;
      EXPECT_EQ(Bit(mask, token), Fits(&matcher, state, vocabulary.bytes(token), strip, left - 2))
          << "after <" << result.text << "> token <" << vocabulary.bytes(token) << "> with " << left
          << " left";
    }
    const bool may_stop = Bit(mask, stop_id);
    EXPECT_EQ(may_stop, walk.complete()) << result.text;
    if (allowed.empty() || (may_stop && (*random)() % 1000 < stop * 1000)) {
      result.stopped = may_stop;
      break;
    }
    const int32_t token = allowed[(*random)() % allowed.size()];
    const std::string& bytes = vocabulary.bytes(token);
    const std::string text = strip && bytes.starts_with(' ') ? bytes.substr(1) : bytes;
    for (const char c : text) state = matcher.Step(state, static_cast<uint8_t>(c));
    EXPECT_TRUE(walk.Accept(token)) << result.text << " + " << bytes;
    result.text += text;
    result.ids.push_back(token);
    ++result.tokens;
  }
  result.complete = walk.complete();
  return result;
}

bool Matches(const Grammar& grammar, std::string_view text) {
  Matcher matcher(grammar);
  Matcher::StateId state = matcher.start();
  for (const char c : text) state = matcher.Step(state, static_cast<uint8_t>(c));
  return matcher.complete(state);
}

}  // namespace palu::structured
