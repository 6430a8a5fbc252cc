// Normalizers of tokenizer.json: what happens to text before anything looks at it.
#pragma once

#include <memory>
#include <string>

#include "server/text/json_reader.h"

namespace palu {

// Immutable; thread-safe. Takes and gives valid UTF-8.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void Apply(std::string* text) const = 0;
};

// spec: the file's "normalizer" object. nullptr for null. Throws LoadError.
std::unique_ptr<Normalizer> MakeNormalizer(const JsonReader& spec);

}  // namespace palu
