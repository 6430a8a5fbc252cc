// What a service manager such as systemd is told: ready, reloading, stopping, still alive.
// The protocol is sd_notify(3): lines in one datagram to the socket that NOTIFY_SOCKET names.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace palu {

// Used by the main thread only. Without NOTIFY_SOCKET everything is a no-op.
class ServiceManager {
 public:
  // The values of NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; each may be null.
  ServiceManager(const char* socket_path, const char* watchdog_usec, const char* watchdog_pid);
  static ServiceManager FromEnvironment();
  ~ServiceManager();
  ServiceManager(const ServiceManager&) = delete;
  ServiceManager& operator=(const ServiceManager&) = delete;

  void Ready(const std::string& status);
  void Reloading();
  void Stopping(const std::string& status);
  // Whether a sign of life is due: four times per watchdog interval; never without a watchdog.
  bool alive_due() const;
  // Gives it, but only while the program gets on: running says whether there is work, steps how
  // many steps were ever done. So a step longer than the watchdog's interval counts as a hang.
  void Alive(bool running, uint64_t steps);

 private:
  void Send(const std::string& lines) const;

  int socket_ = -1;
  std::chrono::microseconds period_{0};  // between signs of life; 0: no watchdog
  std::chrono::steady_clock::time_point last_{};
  uint64_t last_steps_ = 0;
  bool was_running_ = false;
};

}  // namespace palu
