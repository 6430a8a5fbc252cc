// Small tokenizers written here: one rule of tokenizer.json at a time, and files that lie.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/status.h"
#include "server/text/json_tokenizer.h"
#include "server/text/regex.h"
#include "tests/test_paths.h"

namespace palu {
namespace {

using nlohmann::json;

std::unique_ptr<Tokenizer> Make(const json& document, const json& config = {}) {
  static const std::string file = "tokenizer.json";
  return std::make_unique<JsonTokenizer>(JsonReader(document, file), JsonReader(config, file));
}

// Letters and a few merges; ids in the order of the list.
json Document(const std::vector<std::string>& tokens, const json& merges = json::array()) {
  json vocab = json::object();
  for (size_t i = 0; i < tokens.size(); ++i) vocab[tokens[i]] = i;
  return {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
}

// The tokens' names, joined: readable expectations.
std::string Cut(const Tokenizer& tokenizer, const std::string& text, bool add_special = false) {
  std::string out;
  for (const int32_t id : tokenizer.Encode(text, add_special)) {
    if (!out.empty()) out += '|';
    out += tokenizer.TokenName(id);
  }
  return out;
}

TEST(TokenizerRules, MergesByRankThenLeftmost) {
  const auto tokenizer =
      Make(Document({"a", "b", "c", "ab", "bc", "abc", "aa"},
                    {"b c", json::array({"a", "b"}), "a bc", json::array({"a", "a"})}));
  EXPECT_EQ(Cut(*tokenizer, "abc"), "abc");
  EXPECT_EQ(Cut(*tokenizer, "aaa"), "aa|a");
  EXPECT_EQ(Cut(*tokenizer, "abab"), "ab|ab");
}

TEST(TokenizerRules, LongInputTakesNoQuadraticTime) {
  const auto tokenizer = Make(Document({"a", "aa", "aaaa"}, {"a a", "aa aa"}));
  EXPECT_EQ(tokenizer->Encode(std::string(1 << 20, 'a'), false).size(), 1u << 18);
}

TEST(TokenizerRules, IgnoreMergesTakesWholeWords) {
  json document = Document({"a", "b", "ab"});
  EXPECT_EQ(Cut(*Make(document), "ab"), "a|b");
  document["model"]["ignore_merges"] = true;
  EXPECT_EQ(Cut(*Make(document), "ab"), "ab");
}

TEST(TokenizerRules, UnknownCharacters) {
  json document = Document({"a", "?", "<0xC3>", "<0xA9>"});
  document["model"]["unk_token"] = "?";
  EXPECT_EQ(Cut(*Make(document), "axya"), "a|?|?|a");
  document["model"]["fuse_unk"] = true;
  EXPECT_EQ(Cut(*Make(document), "axya"), "a|?|a");
  document["model"]["byte_fallback"] = true;
  EXPECT_EQ(Cut(*Make(document), "a\xC3\xA9xa"), "a|<0xC3>|<0xA9>|?|a");
}

TEST(TokenizerRules, AddedTokens) {
  json document = Document({"a", "b", " "});
  document["added_tokens"] = {{{"id", 3}, {"content", "<x>"}, {"lstrip", true}, {"special", true}},
                              {{"id", 4}, {"content", "<y>"}, {"rstrip", true}},
                              {{"id", 5}, {"content", "bb"}, {"single_word", true}},
                              {{"id", 6}, {"content", "<x><"}}};
  const auto tokenizer = Make(document);
  EXPECT_EQ(Cut(*tokenizer, "a  <x> b"), "a|<x>| |b");
  EXPECT_EQ(Cut(*tokenizer, "a <y>  b"), "a| |<y>|b");
  EXPECT_EQ(Cut(*tokenizer, "bb abb bb"), "bb| |a|b|b| |bb");
  EXPECT_EQ(Cut(*tokenizer, "<x><y>"), "<x>|<y>") << "raw tokens come before normalized ones";
  EXPECT_EQ(tokenizer->vocab_size(), 7);
  EXPECT_TRUE(tokenizer->is_special(3));
  EXPECT_FALSE(tokenizer->is_special(4));
  EXPECT_EQ(tokenizer->Decode({0, 3, 1}, /*skip_special=*/true), "a b");
}

TEST(TokenizerRules, SplitBehaviors) {
  json document = Document({"a", "-"});
  const std::pair<const char*, const char*> expected[] = {{"Removed", "a1 a1"},
                                                          {"Isolated", "a1 -1 -1 a1"},
                                                          {"MergedWithPrevious", "a-2 -1 a1"},
                                                          {"MergedWithNext", "a1 -1 -a2"},
                                                          {"Contiguous", "a1 --2 a1"}};
  for (const auto& [behavior, pieces] : expected) {
    document["pre_tokenizer"] = {{"type", "Split"},
                                 {"pattern", {{"String", "-"}}},
                                 {"behavior", behavior},
                                 {"invert", false}};
    // Merges over the whole piece show where the pieces end.
    document["model"]["vocab"] = {{"a", 0}, {"-", 1}, {"a-", 2}, {"-a", 3}, {"--", 4}};
    document["model"]["merges"] = {"a -", "- a", "- -"};
    std::string got;
    const auto tokenizer = Make(document);
    for (const int32_t id : tokenizer->Encode("a--a", false)) {
      const std::string name = tokenizer->TokenName(id);
      got += (got.empty() ? "" : " ") + name + std::to_string(name.size());
    }
    EXPECT_EQ(got, pieces) << behavior;
  }
}

TEST(TokenizerRules, NormalizersInSequence) {
  json document = Document({"\xC3\xA9", "a", "_"});
  document["normalizer"] = {
      {"type", "Sequence"},
      {"normalizers",
       {{{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}},
        {{"type", "NFC"}},
        {{"type", "Lowercase"}},
        {{"type", "Replace"}, {"pattern", {{"Regex", "\\s+"}}}, {"content", "_"}}}}};
  EXPECT_EQ(Cut(*Make(document), "  E\xCC\x81 \t A "), "\xC3\xA9|_|a");
}

TEST(TokenizerRules, BosAndEosOfTheConfig) {
  json document = Document({"<s>", "</s>", "a"});
  const json tokens = {{"bos_token", "<s>"}, {"eos_token", {{"content", "</s>"}}}};
  json config = tokens;
  EXPECT_EQ(Cut(*Make(document, config), "a", true), "a");
  config["tokenizer_class"] = "LlamaTokenizer";
  EXPECT_EQ(Cut(*Make(document, config), "a", true), "<s>|a");
  config["add_bos_token"] = false;
  config["add_eos_token"] = true;
  EXPECT_EQ(Cut(*Make(document, config), "a", true), "a|</s>");
  EXPECT_EQ(Cut(*Make(document, config), "a", false), "a");
}

TEST(TokenizerRules, InvalidUtf8BecomesReplacement) {
  const auto tokenizer = Make(Document({"a", "\xEF\xBF\xBD"}));
  EXPECT_EQ(Cut(*tokenizer, "a\xE4\xB8z\xFF"), "a|\xEF\xBF\xBD|\xEF\xBF\xBD");
}

TEST(RegexDialect, MeansWhatOnigurumaMeans) {
  const auto first = [](const std::string& pattern, const std::string& text) {
    std::string found = "none";
    Regex(pattern).ForEachMatch(text, [&](size_t begin, size_t end) {
      if (found == "none") found = text.substr(begin, end - begin);
    });
    return found;
  };
  EXPECT_EQ(first("\\s+", "a\xC2\xA0\xE3\x80\x80z"), "\xC2\xA0\xE3\x80\x80");
  EXPECT_EQ(first("\\s", "\xE1\xA0\x8E"), "none") << "U+180E is no white space";
  EXPECT_EQ(first("\\p{N}{1,3}+", "12345"), "12345") << "a repeated interval, not a possessive one";
  EXPECT_EQ(first("a++b", "aab"), "aab");
  EXPECT_EQ(first("^b$", "a\nb\nc"), "b") << "lines, always";
  EXPECT_EQ(first("(?m:a.b)", "a\nb"), "a\nb");
  EXPECT_EQ(first("\\h+", "xyzface"), "face");
  EXPECT_EQ(first("(?i:'S)", "it's"), "'s");
  EXPECT_THROW(Regex("[a[b]]"), std::invalid_argument);
  EXPECT_THROW(Regex("(unclosed"), std::invalid_argument);
  EXPECT_THROW(Regex("a\\"), std::invalid_argument);
}

TEST(RegexDialect, RunawayPatternsEnd) {
  int matches = 0;
  Regex("(a+)+$|b").ForEachMatch(std::string(40, 'a') + "c", [&](size_t, size_t) { ++matches; });
  EXPECT_EQ(matches, 0);
}

void ExpectRefused(const json& document, const std::string& says) {
  try {
    Make(document);
    ADD_FAILURE() << "loaded: " << document.dump().substr(0, 200);
  } catch (const LoadError& error) {
    const std::string message = error.what();
    EXPECT_TRUE(message.starts_with("tokenizer.json: ")) << message;
    EXPECT_NE(message.find(says), std::string::npos) << message << " does not say " << says;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(TokenizerFiles, ThatLieAreRefused) {
  const json good = Document({"a", "b"});
  const auto with = [&good](const std::string& pointer, const json& value) {
    json bad = good;
    bad[json::json_pointer(pointer)] = value;
    return bad;
  };
  ExpectRefused(json::array(), "expected an object");
  ExpectRefused(json::object(), "model");
  ExpectRefused(with("/model", 5), "expected an object");
  ExpectRefused(with("/model/type", "Unigram"), "expected BPE");
  ExpectRefused(with("/model/vocab", json::array()), "model.vocab");
  ExpectRefused(with("/model/vocab", json::object()), "at least one");
  ExpectRefused(with("/model/vocab/a", -1), "expected an integer 0..");
  ExpectRefused(with("/model/vocab/a", 1e18), "expected an integer");
  ExpectRefused(with("/model/vocab/a", uint64_t{1} << 63), "expected an integer");
  ExpectRefused(with("/model/vocab/a", 1), "one id a token");
  ExpectRefused(with("/model/vocab/a", "x"), "expected an integer");
  ExpectRefused(with("/model/merges", {"a z"}), "model.merges[0]");
  ExpectRefused(with("/model/merges", {"ab"}), "model.merges[0]");
  ExpectRefused(with("/model/merges", {{"a"}}), "a pair of tokens");
  ExpectRefused(with("/model/merges", 3), "an array");
  ExpectRefused(with("/model/unk_token", "?"), "a token of the vocabulary");
  ExpectRefused(with("/normalizer", {{"type", "Precompiled"}}), "Precompiled");
  ExpectRefused(with("/normalizer", "NFC"), "an object");
  ExpectRefused(with("/pre_tokenizer", {{"type", "BertPreTokenizer"}}), "BertPreTokenizer");
  ExpectRefused(with("/pre_tokenizer",
                     {{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "("}}}}),
                "a bad pattern");
  ExpectRefused(with("/post_processor", {{"type", "BertProcessing"}}), "BertProcessing");
  ExpectRefused(with("/decoder", {{"type", "WordPiece"}}), "WordPiece");
  ExpectRefused(with("/added_tokens", {{{"id", 0}, {"content", "z"}}}), "an id of its own");
  ExpectRefused(with("/added_tokens", {{{"id", 1 << 30}, {"content", "z"}}}), "added_tokens[0].id");
  ExpectRefused(with("/added_tokens", {{{"id", 2}, {"content", ""}}}), "added_tokens[0].content");
}

TEST(TokenizerFiles, DeepNestingIsRefused) {
  json normalizer = {{"type", "NFC"}};
  for (int i = 0; i < 1000; ++i) {
    normalizer = {{"type", "Sequence"}, {"normalizers", json::array({normalizer})}};
  }
  json document = Document({"a"});
  document["normalizer"] = normalizer;
  ExpectRefused(document, "levels at most");
}

TEST(TokenizerFiles, MissingOnesAreNamed) {
  EXPECT_THROW(LoadTokenizer("/nonexistent"), LoadError);
  EXPECT_THROW(LoadJsonTokenizer("/nonexistent/tokenizer.json", ""), LoadError);
  EXPECT_THROW(LoadSentencePieceTokenizer("/nonexistent/tokenizer.model", ""), LoadError);
  EXPECT_THROW(LoadSentencePieceTokenizer(testing::SourceDir() + "/README.md", ""), LoadError);
}

}  // namespace
}  // namespace palu
