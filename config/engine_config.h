// Settings of the engine, plain data: server_config fills them from YAML, environment and flags.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace palu {

struct ModelOptions {
  std::string path;              // Hugging Face checkpoint directory
  std::string served_name;       // name on the wire; empty: last component of path
  int max_context_tokens = 0;    // 0: the model's own limit
  std::string chat_template;     // file; empty: the model's own
  std::string pooling = "auto";  // of embeddings: auto (the checkpoint's, else last) | mean | last
  // Matrices in memory: auto (as the checkpoint has them) | bf16 (as stored: f16 and f32 too) |
  // int8 | int4, rounded at load where the checkpoint does not hold codes.
  std::string weights = "auto";
  // auto (as the chat template shows) | llama3 | hermes | mistral | json
  std::string tool_parser = "auto";
};

struct EngineOptions {
  std::string device = "auto";       // auto | cpu | cuda:N
  std::string cpu_isa = "auto";      // auto | portable | avx2 | avx512 | avx512_vnni | avx512_bf16
  int cpu_threads = 0;               // 0: all cores, or those of cpu_affinity
  std::string cpu_affinity;          // CPUs, e.g. 0-3,8: one for each thread; empty: not bound
  std::string cpu_numa = "default";  // default (first touch) | interleave (over all NUMA nodes)
  // bf16 (fast) | f32 (exact: the CPU's results up to the order of sums); on GPUs only.
  std::string cuda_activations = "bf16";
  int max_sequences = 64;         // running at once
  int step_tokens = 512;          // token budget of one step
  int max_queue_requests = 1024;  // waiting requests
  int max_queue_tokens = 0;       // prompt tokens of waiting requests; 0: not bounded
  // Who starts next. fcfs: arrival. priority: lower values first, each worth ageing of waiting.
  // fair: tenants take turns by tokens, within a tenant as priority.
  std::string policy = "priority";
  std::chrono::milliseconds ageing{30000};  // 0: priorities are strict
  int target_inter_token_ms = 0;  // bounds a step's prompt tokens while others decode; 0: off
  bool overlap = true;            // plan the next step while the device runs
  int max_unread_tokens = 65536;  // a stream unread past this is cancelled
  bool prefix_caching = true;     // full blocks are kept and found again by their tokens
};

struct CacheOptions {
  int block_tokens = 16;
  // Bytes of the KV pool: memory_bytes if > 0, else memory_fraction of what is free after loading.
  int64_t memory_bytes = 0;
  double memory_fraction = 0.3;
  int64_t host_memory = 0;  // of the host tier; 0: none
  // Cache format of layers that the checkpoint does not settle itself:
  // auto (bf16, or the checkpoint's) | f32 | bf16 | f16 | int8 | int4 | int3 | int2
  std::string format = "auto";
  std::string rotation = "auto";  // auto (Hadamard when quantized) | none | hadamard
  // Not a setting: layers that slide and layers that see everything have block tables of their own,
  // and windows give blocks back. Off where steps are made without a scheduler, with one table.
  bool group_layers = true;
};

}  // namespace palu
