// palu-server: command line, signals, exit codes. 0: done; 1: failed while running; 2: cannot
// start.
#include <pthread.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "config/server_config.h"
#include "server/app.h"
#include "server/logging.h"
#include "server/plan.h"
#include "server/service_manager.h"
#include "server/version.h"

namespace palu {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kTick = std::chrono::milliseconds(50);
// While a model loads, which takes a small one little more than that.
constexpr auto kLoadingTick = std::chrono::milliseconds(2);
constexpr auto kFilePoll = std::chrono::seconds(2);

// One of the signals that main waits for, or 0 after one tick.
int NextSignal(const sigset_t& signals, std::chrono::nanoseconds tick = kTick) {
  const timespec timeout{0, tick.count()};
  const int signal = sigtimedwait(&signals, nullptr, &timeout);
  return signal > 0 ? signal : 0;
}

void Reload(App* app, const std::vector<std::string>& args) {
  try {
    const CommandLine line = ParseCommandLine(args, ProcessEnvironment());
    SetLogLevel(line.config.log.level);
    spdlog::info("log level is now {}", line.config.log.level);
    app->ReloadTls();
    app->Reload(line.config.security);
  } catch (const ConfigError& error) {
    spdlog::error("the configuration was not read again: {}", error.what());
  }
}

[[noreturn]] void ExitNow(int code) {
  spdlog::shutdown();
  _exit(code);
}

void SignOfLife(const App& app, ServiceManager* manager) {
  if (!manager->alive_due()) return;
  const App::Progress progress = app.progress();
  manager->Alive(progress.running, progress.steps);
}

void Drain(App* app, const sigset_t& signals, std::chrono::milliseconds timeout,
           ServiceManager* manager) {
  spdlog::info("shutting down: running requests have {} s", timeout.count() / 1000.0);
  manager->Stopping("draining");
  app->BeginDrain();
  const auto deadline = Clock::now() + timeout;
  while (!app->drained() && Clock::now() < deadline) {
    SignOfLife(*app, manager);
    const int signal = NextSignal(signals);
    if (signal == SIGTERM || signal == SIGINT) {
      spdlog::warn("second signal: exiting at once");
      ExitNow(1);
    }
  }
  if (!app->drained()) spdlog::warn("drain timeout: ending what still runs");
  app->Abort();
}

int Serve(const CommandLine& line, const std::vector<std::string>& args, const sigset_t& signals) {
  ServiceManager manager = ServiceManager::FromEnvironment();
  App app(line.config);
  app.StartLoading();
  bool loaded = false;
  auto next_poll = Clock::now() + kFilePoll;
  while (true) {
    if (Clock::now() >= next_poll) {
      app.PollFiles();
      next_poll = Clock::now() + kFilePoll;
    }
    if (!loaded && (loaded = app.PollLoaded())) manager.Ready("serving");
    SignOfLife(app, &manager);
    if (!app.healthy()) {
      spdlog::critical("the device failed; exiting for a supervisor to restart");
      app.Abort();
      return 1;
    }
    const int signal = NextSignal(signals, loaded ? kTick : kLoadingTick);
    if (signal == SIGHUP) {
      manager.Reloading();
      Reload(&app, args);
      // Told once the model is there, if it is not yet.
      if (loaded) manager.Ready("serving");
    }
    if (signal != SIGTERM && signal != SIGINT) continue;
    // Nothing runs yet, and loading cannot be interrupted.
    if (!loaded) ExitNow(0);
    Drain(&app, signals, line.config.shutdown.drain_timeout, &manager);
    spdlog::info("bye");
    return 0;
  }
}

int Run(const std::vector<std::string>& args, const sigset_t& signals) {
  if (!args.empty() && args[0] == "plan") {
    std::fputs(PlanText({args.begin() + 1, args.end()}).c_str(), stdout);
    return 0;
  }
  const CommandLine line = ParseCommandLine(args, ProcessEnvironment());
  switch (line.action) {
    case StartAction::kVersion:
      std::fputs(VersionText().c_str(), stdout);
      return 0;
    case StartAction::kHelp:
      std::fputs(HelpText().c_str(), stdout);
      return 0;
    case StartAction::kPrintConfig:
      std::fputs(ToYaml(line.config).c_str(), stdout);
      return 0;
    case StartAction::kCheckConfig:
      CheckServable(line.config);
      std::puts("the configuration is valid");
      return 0;
    case StartAction::kServe:
      break;
  }
  CheckServable(line.config);
  SetupLogging(line.config.log);
  for (const std::string& warning : line.warnings) spdlog::warn("{}", warning);
  return Serve(line, args, signals);
}

}  // namespace
}  // namespace palu

int main(int argc, char** argv) {
  // Blocked before any thread starts, so that main alone takes them.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  try {
    return palu::Run({argv + 1, argv + argc}, signals);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "palu-server: %s\n", error.what());
    return 2;
  }
}
