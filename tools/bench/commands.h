// The subcommands of palu-bench. Each function adds one to the application: its options, and a
// callback that runs it and throws std::exception where it fails.
#pragma once

#include <CLI/CLI.hpp>

namespace palu::bench {

// Prefill and decode speed of a checkpoint on one backend, as a table or JSON.
void AddEngineCommand(CLI::App* app);

// What steps of a checkpoint take on this machine, as a table for simulate.
void AddCostsCommand(CLI::App* app);

// Single ops beside the peaks of the same machine and run.
void AddKernelsCommand(CLI::App* app);

// Requests served by the engine in this process.
void AddOfflineCommand(CLI::App* app);

// Open- and closed-loop load on a running OpenAI-style server: latencies, throughput, goodput.
void AddServeCommand(CLI::App* app);

// The real scheduler, block allocator and prefix cache under a trace, with a cost model in place of
// a device: to plan for devices that are not there.
void AddSimulateCommand(CLI::App* app);

}  // namespace palu::bench
