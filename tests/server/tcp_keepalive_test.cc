#include "server/tcp_keepalive.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

namespace palu {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class TcpKeepaliveTest : public ::testing::Test {
 protected:
  ~TcpKeepaliveTest() override { close(socket_); }
  int Get(int level, int option) const {
    int value = -1;
    socklen_t size = sizeof(value);
    getsockopt(socket_, level, option, &value, &size);
    return value;
  }
  const int socket_ = ::socket(AF_INET, SOCK_STREAM, 0);
};

TEST_F(TcpKeepaliveTest, DeadPeersAreFoundInTwiceTheSilence) {
  SetTcpKeepalive(socket_, seconds(60), seconds(30));
  EXPECT_EQ(Get(SOL_SOCKET, SO_KEEPALIVE), 1);
  const int silence = Get(IPPROTO_TCP, TCP_KEEPIDLE);
  EXPECT_EQ(silence, 60);
  EXPECT_EQ(silence + Get(IPPROTO_TCP, TCP_KEEPINTVL) * Get(IPPROTO_TCP, TCP_KEEPCNT), 120);
  EXPECT_EQ(Get(IPPROTO_TCP, TCP_USER_TIMEOUT), 120'000);
}

TEST_F(TcpKeepaliveTest, SlowReadersHaveTheirWriteTimeout) {
  SetTcpKeepalive(socket_, milliseconds(1), seconds(600));
  EXPECT_EQ(Get(IPPROTO_TCP, TCP_KEEPIDLE), 1) << "the kernel's shortest";
  EXPECT_EQ(Get(IPPROTO_TCP, TCP_USER_TIMEOUT), 600'000);
}

TEST_F(TcpKeepaliveTest, ZeroLeavesTheSocketAlone) {
  SetTcpKeepalive(socket_, milliseconds(0), seconds(30));
  EXPECT_EQ(Get(SOL_SOCKET, SO_KEEPALIVE), 0);
  EXPECT_EQ(Get(IPPROTO_TCP, TCP_USER_TIMEOUT), 0);
}

}  // namespace
}  // namespace palu
