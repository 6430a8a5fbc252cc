// palu-bench: what the engine, a server and the cache achieve, as tables and JSON.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "tools/bench/commands.h"

int main(int argc, char** argv) {
  CLI::App app("Benchmarks of Palu Server");
  app.require_subcommand(1);
  palu::bench::AddEngineCommand(&app);
  palu::bench::AddCostsCommand(&app);
  palu::bench::AddKernelsCommand(&app);
  palu::bench::AddOfflineCommand(&app);
  palu::bench::AddServeCommand(&app);
  palu::bench::AddSimulateCommand(&app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "palu-bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
