// The options by which commands name a model, real or of random weights, and how it is run.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "engine/model/model_runner.h"

namespace palu::bench {

struct ModelSource {
  ModelOptions model;
  std::string shape;  // of a model without weights; empty: model.path
  DummyRecipe recipe;
  EngineOptions engine;
  CacheOptions cache;
};

// The source must outlive the parsing.
void AddModelOptions(CLI::App* app, ModelSource* source);

// Throws LoadError.
std::unique_ptr<ModelRunner> LoadModel(const ModelSource& source);

}  // namespace palu::bench
