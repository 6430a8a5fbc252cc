// How long a mask takes at a vocabulary of 128 K, and how many bytes grammars hold.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdio>
#include <random>
#include <set>

#include "server/structured/schema_compiler.h"
#include "tests/structured/walk.h"

namespace palu::structured {
namespace {

// Words, numbers, punctuation and their mixtures in about the shares of a byte-level BPE
// vocabulary.
std::shared_ptr<const Vocabulary> LargeVocabulary() {
  std::mt19937 random(17);
  const auto draw = [&](size_t n) { return random() % n; };
  std::set<std::string> pieces;
  const std::vector<std::string> ends = {"\"", "\",", "\":", "\"}", "\n", ".",     ",", ":",
                                         " {", "()",  "[",   "]",   "},", "\":\"", "_"};
  for (int i = 0; i < 1000; ++i) pieces.insert(std::to_string(i));
  for (int i = 2; i < 80; ++i) pieces.insert(std::string(static_cast<size_t>(i), ' '));
  while (pieces.size() < 128000 - 257) {
    std::string word = draw(2) == 0 ? " " : "";
    const size_t letters = 1 + draw(9);
    for (size_t i = 0; i < letters; ++i) {
      const size_t kind = draw(40);
      if (kind == 0) {
        word += draw(2) == 0 ? "é" : "日";
      } else {
        word += static_cast<char>((kind == 1 ? 'A' : 'a') + draw(26));
      }
    }
    if (draw(12) == 0) word = ends[draw(ends.size())] + word;
    if (draw(12) == 0) word += ends[draw(ends.size())];
    if (word.size() > 1) pieces.insert(word);
  }
  return MakeVocabulary({pieces.begin(), pieces.end()});
}

double Milliseconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

struct Times {
  std::vector<double> first, later;  // milliseconds per mask
  void Print(const char* name) {
    for (auto* times : {&first, &later}) std::sort(times->begin(), times->end());
    const auto at = [](const std::vector<double>& t, double q) {
      return t[static_cast<size_t>(q * static_cast<double>(t.size() - 1))];
    };
    std::printf(
        "%-28s first walk: p50 %.3f p99 %.3f max %.3f ms; later: p50 %.3f p99 %.3f max %.3f\n",
        name, at(first, 0.5), at(first, 0.99), first.back(), at(later, 0.5), at(later, 0.99),
        later.back());
  }
  double LaterMedian() const { return later[later.size() / 2]; }
};

Times Measure(const std::shared_ptr<MaskedGrammar>& masked, int walks) {
  std::mt19937 random(23);
  Times times;
  for (int w = 0; w < walks; ++w) {
    GrammarWalk walk(masked, {kStop});
    for (int left = 300; left > 0; --left) {
      const auto begin = std::chrono::steady_clock::now();
      walk.FillMask(left + 2000);
      const double took = Milliseconds(std::chrono::steady_clock::now() - begin);
      (w == 0 ? times.first : times.later).push_back(took);
      std::vector<int32_t> allowed;
      for (size_t word = 0; word < walk.mask().size(); ++word) {
        for (uint32_t bits = walk.mask()[word]; bits != 0; bits &= bits - 1) {
          allowed.push_back(static_cast<int32_t>(word * 32) + std::countr_zero(bits));
        }
      }
      if (walk.must_stop() || allowed.empty()) break;
      const int32_t token = allowed[random() % allowed.size()];
      if (token == kStop || !walk.Accept(token)) break;
    }
  }
  return times;
}

TEST(MaskTime, AtAVocabularyOf128K) {
  const auto built = std::chrono::steady_clock::now();
  const auto vocabulary = LargeVocabulary();
  std::printf("vocabulary: %d tokens, %zu nodes, made in %.0f ms\n", vocabulary->size(),
              vocabulary->nodes().size(), Milliseconds(std::chrono::steady_clock::now() - built));
  const std::pair<const char*, const char*> schemas[] = {
      {"any object", R"({"type": "object"})"},
      {"strings", R"({"type": "array", "items": {"type": "string"}})"},
      {"strings of 10 to 400", R"({"type": "array", "items": {"type": "string", "minLength": 10,
         "maxLength": 400}})"},
      {"records", R"({"type": "array", "items": {"type": "object", "properties": {
         "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
         "kind": {"enum": ["one", "two", "three"]}, "tags": {"type": "array", "items":
         {"type": "string", "pattern": "^[a-z]+$"}}}, "required": ["name", "age", "kind", "tags"],
         "additionalProperties": false}})"},
  };
  for (const auto& [name, schema] : schemas) {
    const auto begin = std::chrono::steady_clock::now();
    const auto grammar = CompileSchema(Json::parse(schema));
    ASSERT_TRUE(grammar.has_value());
    std::printf("%-28s compiled in %.2f ms\n", name,
                Milliseconds(std::chrono::steady_clock::now() - begin));
    const auto masked = std::make_shared<MaskedGrammar>(*grammar, vocabulary);
    Times times = Measure(masked, 5);
    times.Print(name);
    // 5 % of a decode step of 5 ms, with room for a loaded machine and sanitizers; masks are made
    // beside the forward pass, so even that is not added to a step.
    EXPECT_LT(times.LaterMedian(), 2.5) << name;
  }
}

}  // namespace
}  // namespace palu::structured
