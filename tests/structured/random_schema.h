// Random JSON schemas within what the server supports.
#pragma once

#include <nlohmann/json.hpp>
#include <random>

namespace palu::structured {

// Never one that nothing can fulfil, but with many optional, nested, bounded and recursive parts.
class RandomSchema {
 public:
  explicit RandomSchema(std::mt19937* random) : random_(*random) {}

  nlohmann::ordered_json Make();

 private:
  using Json = nlohmann::ordered_json;
  int Draw(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  bool Chance(int percent) { return Draw(100) < percent; }
  Json Any(int depth);
  Json Number();
  Json String();
  Json Array(int depth);
  Json Object(int depth);
  Json Values();
  Json Combination(int depth);

  std::mt19937& random_;
};

}  // namespace palu::structured
