#include "server/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace palu {
namespace {

// A connected datagram socket, or -1. A path that begins with @ is in the abstract namespace.
int Connect(const char* path) {
  sockaddr_un address{};
  const size_t length = std::strlen(path);
  if (length < 2 || length >= sizeof(address.sun_path) || (path[0] != '/' && path[0] != '@')) {
    return -1;
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), size) == 0) return fd;
  close(fd);
  return -1;
}

int64_t Number(const char* text) { return text == nullptr ? 0 : std::strtoll(text, nullptr, 10); }

}  // namespace

ServiceManager::ServiceManager(const char* socket_path, const char* watchdog_usec,
                               const char* watchdog_pid) {
  if (socket_path != nullptr) socket_ = Connect(socket_path);
  const bool meant = watchdog_pid == nullptr || Number(watchdog_pid) == getpid();
  if (meant && Number(watchdog_usec) > 0) {
    period_ = std::chrono::microseconds(Number(watchdog_usec) / 4);
  }
}

ServiceManager ServiceManager::FromEnvironment() {
  return ServiceManager(std::getenv("NOTIFY_SOCKET"), std::getenv("WATCHDOG_USEC"),
                        std::getenv("WATCHDOG_PID"));
}

ServiceManager::~ServiceManager() {
  if (socket_ >= 0) close(socket_);
}

void ServiceManager::Send(const std::string& lines) const {
  // A manager that does not listen is no reason to stop serving.
  if (socket_ >= 0) send(socket_, lines.data(), lines.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void ServiceManager::Ready(const std::string& status) { Send("READY=1\nSTATUS=" + status); }

void ServiceManager::Reloading() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  Send("RELOADING=1\nMONOTONIC_USEC=" +
       std::to_string(now.tv_sec * int64_t{1'000'000} + now.tv_nsec / 1000));
}

void ServiceManager::Stopping(const std::string& status) { Send("STOPPING=1\nSTATUS=" + status); }

bool ServiceManager::alive_due() const {
  return period_.count() > 0 && std::chrono::steady_clock::now() - last_ >= period_;
}

void ServiceManager::Alive(bool running, uint64_t steps) {
  if (running && was_running_ && steps == last_steps_) return;
  last_ = std::chrono::steady_clock::now();
  last_steps_ = steps;
  was_running_ = running;
  Send("WATCHDOG=1");
}

}  // namespace palu
