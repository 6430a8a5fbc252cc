#include "tools/bench/model_options.h"

#include "tools/bench/model_shapes.h"

namespace palu::bench {

void AddModelOptions(CLI::App* app, ModelSource* source) {
  CLI::App* group = app->add_option_group("model")->require_option(1);
  group->add_option("--model", source->model.path, "checkpoint directory");
  group->add_option("--dummy-weights", source->shape,
                    "random weights of these shapes: a config.json or one of " + ShapeNames());
  DummyRecipe& recipe = source->recipe;
  app->add_option("--key-rank", recipe.key_rank, "numbers per group of keys; 0: dense");
  app->add_option("--key-group", recipe.key_group_heads, "KV heads that share a latent of keys");
  app->add_option("--value-rank", recipe.value_rank, "numbers per group of values; 0: dense");
  app->add_option("--value-group", recipe.value_group_heads,
                  "KV heads that share a latent of values");
  app->add_option("--max-context", source->model.max_context_tokens, "0: the model's own limit");
  app->add_option("--max-sequences", source->engine.max_sequences, "largest decode batch");
  app->add_option("--device", source->engine.device, "auto | cpu | cuda:N");
  app->add_option("--cpu-isa", source->engine.cpu_isa,
                  "auto | portable | avx2 | avx512 | avx512_vnni | avx512_bf16");
  app->add_option("--threads", source->engine.cpu_threads, "0: all cores");
  app->add_option("--affinity", source->engine.cpu_affinity, "CPUs of the threads, e.g. 0-3,8");
  app->add_option("--numa", source->engine.cpu_numa, "default | interleave");
  app->add_option("--cuda-activations", source->engine.cuda_activations, "bf16 | f32");
  app->add_option("--step-tokens", source->engine.step_tokens, "largest prefill chunk");
  app->add_option("--weights", source->model.weights, "auto | bf16 | int8 | int4");
  app->add_option("--kv", source->cache.format, "cache format of layers left open");
  app->add_option("--rotation", source->cache.rotation, "auto | none | hadamard");
  app->add_option("--cache-bytes", source->cache.memory_bytes, "bytes of the KV pool");
}

std::unique_ptr<ModelRunner> LoadModel(const ModelSource& source) {
  if (source.shape.empty()) {
    return ModelRunner::Load(source.model, source.engine, source.cache);
  }
  DummyModel dummy = LoadShape(source.shape);
  dummy.recipe = source.recipe;
  return ModelRunner::LoadDummy(dummy, source.model, source.engine, source.cache);
}

}  // namespace palu::bench
