#include "server/service_manager.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <thread>

namespace palu {
namespace {

using namespace std::chrono_literals;

// The manager's end of the socket, in the abstract namespace.
class Listener {
 public:
  Listener() : name_("@palu-test-" + std::to_string(getpid())) {
    fd_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path + 1, name_.data() + 1, name_.size() - 1);
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name_.size());
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
  }
  ~Listener() { close(fd_); }
  const char* name() const { return name_.c_str(); }
  // The next message; empty if there is none.
  std::string Next() const {
    char buffer[512];
    const ssize_t size = recv(fd_, buffer, sizeof(buffer), 0);
    return size < 0 ? "" : std::string(buffer, static_cast<size_t>(size));
  }

 private:
  std::string name_;
  int fd_;
};

TEST(ServiceManager, TellsWhatHappens) {
  const Listener listener;
  ServiceManager manager(listener.name(), nullptr, nullptr);
  manager.Ready("serving");
  EXPECT_EQ(listener.Next(), "READY=1\nSTATUS=serving");
  manager.Reloading();
  EXPECT_EQ(listener.Next().rfind("RELOADING=1\nMONOTONIC_USEC=", 0), 0u);
  manager.Stopping("draining");
  EXPECT_EQ(listener.Next(), "STOPPING=1\nSTATUS=draining");
  EXPECT_FALSE(manager.alive_due());
}

TEST(ServiceManager, GivesSignsOfLifeOnlyWhileStepsAreDone) {
  const Listener listener;
  ServiceManager manager(listener.name(), "40000", nullptr);
  EXPECT_TRUE(manager.alive_due());
  // Not due just after; on a busy machine the 10 ms may pass between the two lines.
  uint64_t steps = 0;
  bool due = true;
  while (due && steps < 100) {
    manager.Alive(true, ++steps);
    due = manager.alive_due();
    EXPECT_EQ(listener.Next(), "WATCHDOG=1");
  }
  EXPECT_FALSE(due);
  std::this_thread::sleep_for(12ms);
  EXPECT_TRUE(manager.alive_due());
  manager.Alive(true, steps);  // there is work, and nothing was done
  EXPECT_EQ(listener.Next(), "");
  EXPECT_TRUE(manager.alive_due());
  manager.Alive(true, ++steps);
  EXPECT_EQ(listener.Next(), "WATCHDOG=1");
  manager.Alive(false, steps);
  manager.Alive(false, steps);  // idle is alive
  manager.Alive(true, steps);   // work that came just now
  EXPECT_EQ(listener.Next(), "WATCHDOG=1");
  EXPECT_EQ(listener.Next(), "WATCHDOG=1");
  EXPECT_EQ(listener.Next(), "WATCHDOG=1");
}

TEST(ServiceManager, IsSilentWithoutOneOrForAnotherProcess) {
  const Listener listener;
  ServiceManager other(listener.name(), "40000", "1");
  EXPECT_FALSE(other.alive_due());
  for (const char* path : {"", "@", "relative", "/nonexistent/socket"}) {
    ServiceManager manager(path, "40000", nullptr);
    manager.Ready("serving");
    manager.Alive(false, 0);
  }
  EXPECT_EQ(listener.Next(), "");
}

}  // namespace
}  // namespace palu
