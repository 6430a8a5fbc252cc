#include "server/tcp_keepalive.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <limits>

namespace palu {

void SetTcpKeepalive(int socket, std::chrono::milliseconds silence,
                     std::chrono::milliseconds write_timeout) {
  if (silence.count() <= 0) return;
  constexpr int kProbes = 4;
  const auto set = [socket](int level, int option, int64_t value) {
    const int number = static_cast<int>(std::min<int64_t>(value, std::numeric_limits<int>::max()));
    setsockopt(socket, level, option, &number, sizeof(number));
  };
  const int64_t seconds = std::max<int64_t>((silence.count() + 999) / 1000, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, seconds);
  set(IPPROTO_TCP, TCP_KEEPINTVL, std::max<int64_t>(seconds / kProbes, 1));
  set(IPPROTO_TCP, TCP_KEEPCNT, kProbes);
  // No probe is sent while data waits for its acknowledgement, which the kernel repeats for a
  // quarter of an hour.
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, std::max<int64_t>(2 * 1000 * seconds, write_timeout.count()));
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
}

}  // namespace palu
