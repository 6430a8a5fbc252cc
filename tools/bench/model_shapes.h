// Shapes of well-known models for runs without their weights.
#pragma once

#include <string>

#include "engine/model/dummy_checkpoint.h"

namespace palu::bench {

// "llama-2-7b, llama-3-8b, …": the names that LoadShape knows.
std::string ShapeNames();

// The model of that name, or of the config.json at that path (a file or a directory). Throws
// LoadError naming what is known.
DummyModel LoadShape(const std::string& name);

}  // namespace palu::bench
